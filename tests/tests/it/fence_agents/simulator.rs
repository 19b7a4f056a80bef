//! A host's management controller on loopback: OpenIPMI's `ipmi_sim` for IPMI, `sushy-emulator` for Redfish.
//!
//! Both read two files in their directory: the host's power is theirs to keep, and while there is a file `stuck` they
//! obey by word only.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use model::node::FenceDevice;

/// The agents are Python, and slow to start on a busy machine.
pub(super) const TIMEOUT_MS: u64 = 20_000;
pub(super) const PASSWORD: &str = "letmein-2";
/// `PASSWORD` for a web server, at bcrypt's least cost.
const HTPASSWD: &str = "berth:$2b$04$Ehx4kETC2sIxbth7853/ZOSQ.BYEy/9.cNYQuH5WFLlu6dzTYEXu6\n";
const SYSTEM: &str = "/redfish/v1/Systems/27946b59-9e44-4fa7-8e91-f3527a1ef094";
const START_LIMIT: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(20);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Ipmi,
    Redfish,
}

pub(super) const KINDS: [Kind; 2] = [Kind::Ipmi, Kind::Redfish];

/// A running simulator; it ends with this.
pub(super) struct Simulator {
    kind: Kind,
    port: u16,
    directory: tempfile::TempDir,
    process: Child,
}

impl Simulator {
    /// Starts one for a host that is on or off, and waits until it answers.
    pub(super) fn start(kind: Kind, on: bool) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let port = free_port(kind)?;
        let mut command = match kind {
            Kind::Ipmi => ipmi(directory.path(), port, on)?,
            Kind::Redfish => redfish(directory.path(), port, on)?,
        };
        let log = File::create(directory.path().join("log"))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let process = command.spawn().with_context(|| format!("{kind:?}: no simulator"))?;
        let mut simulator = Self { kind, port, directory, process };
        until("the simulator to answer", || {
            if let Some(status) = simulator.process.try_wait()? {
                let log = std::fs::read_to_string(simulator.directory.path().join("log"))?;
                bail!("the simulator ended with {status}: {log}");
            }
            simulator.answers()
        })?;
        Ok(simulator)
    }

    /// The device as an operator would set it.
    pub(super) fn device(&self) -> FenceDevice {
        device(self.kind, self.port)
    }

    /// What the simulator says, asked without a fence agent.
    pub(super) fn is_on(&self) -> Result<bool> {
        let state = match self.kind {
            Kind::Ipmi => std::fs::read_to_string(self.directory.path().join("power"))?,
            Kind::Redfish => {
                let script = format!(
                    "import requests; print(requests.get('https://127.0.0.1:{}{SYSTEM}', \
                     verify='cert.pem', auth=('berth', '{PASSWORD}')).json()['PowerState'])",
                    self.port
                );
                let output = Command::new(sushy("python")?)
                    .args(["-c", &script])
                    .current_dir(self.directory.path())
                    .output()?;
                ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
                String::from_utf8(output.stdout)?
            }
        };
        match state.trim() {
            "1" | "On" => Ok(true),
            "0" | "Off" => Ok(false),
            other => bail!("the simulator says {other:?}"),
        }
    }

    /// From now on it says that it did what it was told, and does nothing.
    pub(super) fn obey_by_word_only(&self) -> Result<()> {
        File::create(self.directory.path().join("stuck"))?;
        Ok(())
    }

    /// From now on nobody is there.
    pub(super) fn kill(&mut self) -> Result<()> {
        self.process.kill()?;
        self.process.wait()?;
        Ok(())
    }

    fn answers(&self) -> Result<bool> {
        match self.kind {
            // IPMI is UDP, so that only an answer tells; one try of a second each.
            Kind::Ipmi => Ok(Command::new("/usr/bin/ipmitool")
                .args(["-I", "lanplus", "-C", "3", "-N", "1", "-R", "1", "-H", "127.0.0.1"])
                .args(["-p", &self.port.to_string(), "-U", "berth", "-P", PASSWORD])
                .args(["chassis", "power", "status"])
                .output()
                .context("ipmitool cannot be run; run deploy/install-fence-simulators.sh")?
                .status
                .success()),
            Kind::Redfish => Ok(TcpStream::connect(("127.0.0.1", self.port)).is_ok()),
        }
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

/// A device at this port.
pub(super) fn device(kind: Kind, port: u16) -> FenceDevice {
    let port = port.to_string();
    let common = [
        ("ip", "127.0.0.1"),
        ("ipport", port.as_str()),
        ("username", "berth"),
        ("password", PASSWORD),
        // How often the agent asks, a second apart, whether the host has gone off, before it gives up.
        ("power_timeout", "3"),
    ];
    let (agent, own) = match kind {
        Kind::Ipmi => ("fence_ipmilan", [("lanplus", "1"), ("cipher", "3"), ("power_wait", "0")]),
        Kind::Redfish => {
            ("fence_redfish", [("ssl", "1"), ("ssl_insecure", "1"), ("systems-uri", SYSTEM)])
        }
    };
    let options: BTreeMap<String, String> =
        common.into_iter().chain(own).map(|(key, value)| (key.into(), value.into())).collect();
    FenceDevice { agent: agent.into(), options, timeout_ms: TIMEOUT_MS, level: 0 }
}

/// Waits for an event that tells nobody.
pub(super) fn until(what: &str, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    let begun = Instant::now();
    while !holds()? {
        ensure!(begun.elapsed() < START_LIMIT, "waited in vain for {what}");
        std::thread::sleep(POLL);
    }
    Ok(())
}

fn free_port(kind: Kind) -> Result<u16> {
    let address = match kind {
        Kind::Ipmi => UdpSocket::bind("127.0.0.1:0")?.local_addr()?,
        Kind::Redfish => TcpListener::bind("127.0.0.1:0")?.local_addr()?,
    };
    Ok(address.port())
}

/// Ends with the test, also when that is killed.
fn tied(program: &Path, directory: &Path) -> Result<Command> {
    let there = program.is_file();
    ensure!(there, "{} is missing; run deploy/install-fence-simulators.sh", program.display());
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]).arg(program).current_dir(directory);
    Ok(command)
}

fn ipmi(directory: &Path, port: u16, on: bool) -> Result<Command> {
    let program = directory.join("chassis");
    std::fs::write(
        directory.join("lan.conf"),
        format!(
            "name \"host\"\nset_working_mc 0x20\nstartlan 1\naddr 127.0.0.1 {port}\n\
             priv_limit admin\nallowed_auths_admin md5\nguid a123456789abcdefa123456789abcdef\nendlan\nchassis_control \"/bin/sh {}\"\n\
             user 1 false \"\" \"\" user 1 md5\nuser 2 true \"berth\" \"{PASSWORD}\" admin 10 md5\n",
            program.display()
        ),
    )?;
    std::fs::write(
        directory.join("host.emu"),
        "mc_setbmc 0x20\n\
         mc_add 0x20 0 no-device-sdrs 0x23 9 8 0x9f 0x1291 0xf02 persist_sdr\n\
         mc_enable 0x20\n",
    )?;
    // Called with `get power`, `set power 0`; the answer is `power:1`.
    let script = "cd \"$(dirname \"$0\")\"\n\
        case \"$1 $2\" in\n\
        'get power') echo \"power:$(cat power)\" ;;\n\
        'set power') [ -e stuck ] || echo \"$3\" > power ;;\n\
        esac\n";
    std::fs::write(&program, script)?;
    std::fs::write(directory.join("power"), if on { "1" } else { "0" })?;
    let mut command = tied(Path::new("/usr/bin/ipmi_sim"), directory)?;
    command.args(["-n", "-c", "lan.conf", "-f", "host.emu", "-s", "."]);
    Ok(command)
}

fn redfish(directory: &Path, port: u16, on: bool) -> Result<Command> {
    let certificate = Command::new("/usr/bin/openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"])
        .args(["-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"])
        .args(["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", "key.pem", "-out", "cert.pem"])
        .current_dir(directory)
        .output()
        .context("openssl cannot be run; run deploy/install-fence-simulators.sh")?;
    ensure!(certificate.status.success(), "{}", String::from_utf8_lossy(&certificate.stderr));
    std::fs::write(directory.join("htpasswd"), HTPASSWD)?;
    // The configuration is Python. The simulated host takes 1 to 11 seconds, by chance, to do as it is told; this
    // one takes none, or so long that no test sees it.
    let state = directory.display();
    let power = if on { "On" } else { "Off" };
    std::fs::write(
        directory.join("host.conf"),
        format!(
            "import os, random\n\
             random.randint = lambda *_: 3600 if os.path.exists('{state}/stuck') else 0\n\
             SUSHY_EMULATOR_AUTH_FILE = '{state}/htpasswd'\n\
             SUSHY_EMULATOR_STATE_DIR = '{state}'\n\
             SUSHY_EMULATOR_FAKE_SYSTEMS = [{{'uuid': '{}', 'name': 'host', 'power_state': '{power}', \
             'external_notifier': False, 'nics': []}}]\n",
            SYSTEM.rsplit('/').next().unwrap_or_default()
        ),
    )?;
    let mut command = tied(&sushy("sushy-emulator")?, directory)?;
    command
        .args(["--fake", "--interface", "127.0.0.1", "--port", &port.to_string()])
        .args(["--ssl-certificate", "cert.pem", "--ssl-key", "key.pem", "--config"])
        .arg(directory.join("host.conf"));
    Ok(command)
}

/// Where `deploy/install-fence-simulators.sh` puts what is from PyPI: beside the folder of this test's program.
fn sushy(program: &str) -> Result<PathBuf> {
    let here = std::env::current_exe()?;
    let target = here.ancestors().nth(3).context("the test is not in a build directory")?;
    Ok(target.join("fence-simulators/sushy/bin").join(program))
}
