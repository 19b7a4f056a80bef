//! What the agent has to know of its host beside libvirt.

use anyhow::Context;

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
const PROCESSOR: &str = "/proc/cpuinfo";
const QEMU_CONFIGURATION: &str = "/etc/libvirt/qemu.conf";

/// The kernel's boot id: another after every boot.
pub fn boot_id() -> anyhow::Result<String> {
    let text = std::fs::read_to_string(BOOT_ID).context("the boot id cannot be read")?;
    Ok(text.trim().to_owned())
}

/// The host is a virtual machine itself, as the processor's flag `hypervisor` says: its clock may be paused.
pub fn is_virtual() -> bool {
    // One that cannot be read proves nothing, and so neither does its lease.
    std::fs::read_to_string(PROCESSOR).map_or(true, |text| flags_say_virtual(&text))
}

fn flags_say_virtual(cpuinfo: &str) -> bool {
    cpuinfo
        .lines()
        .filter_map(|line| line.split_once(':'))
        .filter(|(key, _)| key.trim() == "flags")
        .any(|(_, flags)| flags.split_whitespace().any(|flag| flag == "hypervisor"))
}

/// The lock manager of libvirt's QEMU driver (`lock_manager` in qemu.conf), where one is set.
pub fn lock_manager() -> Option<String> {
    std::fs::read_to_string(QEMU_CONFIGURATION).ok().and_then(|text| configured(&text))
}

fn configured(qemu_conf: &str) -> Option<String> {
    let mut values = qemu_conf.lines().filter_map(|line| {
        let (key, value) = line.split_once('=')?;
        (key.trim() == "lock_manager").then(|| value.trim().trim_matches('"').to_owned())
    });
    values.next_back().filter(|value| !value.is_empty() && value != "nop")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_virtual_host_is_known_by_its_processors_flag() {
        assert!(flags_say_virtual("model name\t: x\nflags\t\t: fpu hypervisor lahf_lm\n"));
        assert!(!flags_say_virtual("model name\t: hypervisor\nflags\t\t: fpu lahf_lm\n"));
    }

    #[test]
    fn a_lock_manager_is_read_from_qemus_configuration() {
        assert_eq!(
            configured("# lock_manager = \"sanlock\"\nlock_manager = \"lockd\"\n").as_deref(),
            Some("lockd")
        );
        assert_eq!(configured("# lock_manager = \"lockd\"\n"), None);
        assert_eq!(configured("lock_manager=\"nop\"\n"), None);
    }
}
