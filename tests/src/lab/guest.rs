//! A guest of our own: a boot sector that counts on its serial port and on its disk. See `tests/guest/boot.S`.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use uuid::Uuid;

use crate::lab::run;

const SOURCE: &str = include_str!("../../guest/boot.S");
const SECTOR: u64 = 512;
/// Where the boot sector says whether it is deaf.
const DEAF_OFFSET: usize = 508;
/// Where it says whether it counts as fast as it can.
const EAGER_OFFSET: usize = 509;
/// Where it has the number of the sector it counts in (32 bit).
const COUNTER_OFFSET: usize = 504;
/// The sector it counts in if nothing else is said.
const COUNTER: u8 = 1;
/// A sector that is on another page of its disk than the boot sector, and a hole until it counts.
const FAR_COUNTER: u8 = 8;
/// The sector that tells it what to do of its own accord. On a page that it never counts in: a page is written back whole, and
/// would take an older count with it.
const ACT: u64 = 16;
const DISK_BYTES: u64 = 64 * SECTOR;

/// One guest.
#[derive(Debug, Clone)]
pub struct Guest {
    /// Its domain's name.
    pub name: String,
    /// Its domain's UUID.
    pub uuid: Uuid,
    /// Its disk.
    pub disk: PathBuf,
    /// Memory of its domain.
    pub memory_mib: u64,
    /// Devices beside those that every guest has, as domain XML.
    pub devices: String,
    counter: u8,
}

/// What a guest can do of its own accord.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// It shuts down.
    PowerOff,
    /// It resets itself, as a kernel does that reboots.
    Reboot,
    /// It panics: needs the device `<panic model='isa'/>`.
    Panic,
    /// It lets its watchdog bite: needs the device `<watchdog model='ib700'/>`.
    LetBite,
}

impl Act {
    /// A port, and the byte for it: the power management's control, the keyboard controller's reset line, pvpanic's "panicked",
    /// and ib700's shortest time.
    fn bytes(self) -> [u8; 3] {
        let (port, byte): (u16, u8) = match self {
            Self::PowerOff => (0x600, 0),
            Self::Reboot => (0x64, 0xfe),
            Self::Panic => (0x505, 1),
            Self::LetBite => (0x443, 15),
        };
        [port.to_le_bytes()[0], port.to_le_bytes()[1], byte]
    }
}

/// What a guest has written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Count {
    /// Its counter.
    pub counter: u32,
    /// How often it found a counter on its disk that it had not written.
    pub strangers: u32,
    /// How often it was booted after the first time; a guest that was restored or migrated was not.
    pub boots: u32,
}

impl Guest {
    /// Makes the guest's disk on the shared storage.
    pub fn make(shared: &Path, name: &str, deaf: bool) -> Result<Self> {
        Self::make_with(shared, name, &[(DEAF_OFFSET, u8::from(deaf))])
    }

    /// The same for a guest that counts as fast as it can, so that its pauses can be measured.
    pub fn make_eager(shared: &Path, name: &str) -> Result<Self> {
        Self::make_with(shared, name, &[(EAGER_OFFSET, 1)])
    }

    /// The same for a guest whose first count makes its disk larger, which fails where its storage is full.
    pub fn make_growing(directory: &Path, name: &str) -> Result<Self> {
        let mut guest = Self::make_with(directory, name, &[(COUNTER_OFFSET, FAR_COUNTER)])?;
        guest.counter = FAR_COUNTER;
        Ok(guest)
    }

    fn make_with(shared: &Path, name: &str, bytes: &[(usize, u8)]) -> Result<Self> {
        let disk = shared.join(format!("{name}.img"));
        let mut image = boot_sector(shared)?;
        for (offset, byte) in bytes {
            image[*offset] = *byte;
        }
        let mut file = File::create(&disk)?;
        file.write_all(&image)?;
        file.set_len(DISK_BYTES)?;
        Ok(Self {
            name: name.to_owned(),
            uuid: Uuid::new_v4(),
            disk,
            memory_mib: 16,
            devices: String::new(),
            counter: COUNTER,
        })
    }

    /// Its domain.
    pub fn xml(&self) -> String {
        format!(
            "<domain type='qemu'>
  <name>{}</name>
  <uuid>{}</uuid>
  <memory unit='MiB'>{}</memory>
  <vcpu>1</vcpu>
  <os><type arch='x86_64' machine='pc'>hvm</type><boot dev='hd'/></os>
  <features><acpi/></features>
  <on_poweroff>destroy</on_poweroff>
  <on_reboot>restart</on_reboot>
  <on_crash>destroy</on_crash>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw' cache='none'/>
      <source file='{}'/>
      <target dev='hda' bus='ide'/>
    </disk>
    <controller type='usb' model='none'/>
    <memballoon model='none'/>
    <serial type='null'><target port='0'/></serial>{}
  </devices>
</domain>
",
            self.name,
            self.uuid,
            self.memory_mib,
            self.disk.display(),
            self.devices
        )
    }

    /// Writes its domain XML beside its disk.
    pub fn write_xml(&self) -> Result<PathBuf> {
        let path = self.disk.with_extension("xml");
        fs::write(&path, self.xml())?;
        Ok(path)
    }

    /// What it has written; `None` before its first count.
    pub fn count(&self) -> Result<Option<Count>> {
        let mut file = OpenOptions::new().read(true).open(&self.disk)?;
        file.seek(SeekFrom::Start(u64::from(self.counter) * SECTOR))?;
        let mut bytes = [0u8; 20];
        file.read_exact(&mut bytes)?;
        if &bytes[..8] != b"BERTHCNT" {
            return Ok(None);
        }
        let number = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        Ok(Some(Count { counter: number(8), strangers: number(12), boots: number(16) }))
    }

    /// Has it do something of its own accord, once, within a moment.
    pub fn does(&self, act: Act) -> Result<()> {
        let mut file = OpenOptions::new().write(true).open(&self.disk)?;
        file.seek(SeekFrom::Start(ACT * SECTOR))?;
        file.write_all(&act.bytes())?;
        file.sync_all()?;
        Ok(())
    }
}

/// Assembled with the tools that the Rust toolchain's linker comes with.
fn boot_sector(shared: &Path) -> Result<Vec<u8>> {
    let directory = tempfile::tempdir_in(shared)?;
    let path = |name: &str| directory.path().join(name).display().to_string();
    fs::write(path("boot.S"), SOURCE)?;
    run("as", &["--32", "-o", &path("boot.o"), &path("boot.S")])?;
    run(
        "ld",
        &[
            "-m",
            "elf_i386",
            "-Ttext",
            "0x7c00",
            "--oformat",
            "binary",
            "-o",
            &path("boot"),
            &path("boot.o"),
        ],
    )?;
    let image = fs::read(path("boot")).context("the boot sector was not made")?;
    ensure!(image.len() == SECTOR as usize, "the boot sector has {} bytes", image.len());
    Ok(image)
}
