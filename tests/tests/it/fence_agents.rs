//! The server's fence module against fence agents of the distribution, `fence_ipmilan` and `fence_redfish`, and
//! simulated management controllers.

mod simulator;

use std::net::{TcpListener, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use fence::{FenceAgents, PowerState};
use model::node::FenceDevice;

use self::simulator::{KINDS, Kind, PASSWORD, Simulator, TIMEOUT_MS, device, until};

fn agents() -> FenceAgents {
    FenceAgents::new(vec!["/usr/sbin".into()])
}

/// Why there is no proof.
async fn refusal(devices: &[FenceDevice]) -> Result<String> {
    match agents().prove_off(devices).await {
        Ok(device) => bail!("{device} was taken for proof"),
        Err(error) => Ok(error.to_string()),
    }
}

#[tokio::test]
async fn a_host_that_is_on_is_switched_off_proven_off_and_can_be_switched_on_again() -> Result<()> {
    for kind in KINDS {
        let simulator = Simulator::start(kind, true)?;
        let device = simulator.device();
        ensure!(agents().status(&device).await? == PowerState::On, "{kind:?}");
        let proof = agents().prove_off(std::slice::from_ref(&device)).await?;
        ensure!(proof == device.agent, "{kind:?}: {proof}");
        ensure!(!simulator.is_on()?, "{kind:?}: the host is on");
        ensure!(agents().status(&device).await? == PowerState::Off, "{kind:?}");
        agents().power_on(&device).await?;
        ensure!(simulator.is_on()?, "{kind:?}: the host is off");
    }
    Ok(())
}

#[tokio::test]
async fn a_host_that_is_off_already_is_proven_off() -> Result<()> {
    for kind in KINDS {
        let simulator = Simulator::start(kind, false)?;
        agents().prove_off(&[simulator.device()]).await.with_context(|| format!("{kind:?}"))?;
        ensure!(!simulator.is_on()?, "{kind:?}: the host is on");
    }
    Ok(())
}

#[tokio::test]
async fn a_device_that_cannot_be_reached_proves_nothing_and_the_next_one_is_asked() -> Result<()> {
    let other = Simulator::start(Kind::Redfish, true)?;
    for (kind, reason) in
        [(Kind::Ipmi, "Connection timed out"), (Kind::Redfish, "Connection refused")]
    {
        let mut simulator = Simulator::start(kind, true)?;
        simulator.kill()?;
        let begun = Instant::now();
        let text = refusal(&[simulator.device()]).await?;
        // Once for "off" and once for the status.
        ensure!(begun.elapsed() < Duration::from_millis(2 * TIMEOUT_MS), "{:?}", begun.elapsed());
        ensure!(text.contains("status ended with 1") && text.contains(reason), "{text}");
        ensure!(agents().status(&simulator.device()).await.is_err(), "{kind:?} has a status");
        agents().prove_off(&[simulator.device(), other.device()]).await?;
        ensure!(!other.is_on()?, "the other device's host is on");
    }
    Ok(())
}

#[tokio::test]
async fn both_power_supplies_must_say_off_and_a_level_that_fails_gives_way_to_the_next()
-> Result<()> {
    let supplies = [Simulator::start(Kind::Ipmi, true)?, Simulator::start(Kind::Redfish, true)?];
    let level = |simulator: &Simulator, level| FenceDevice { level, ..simulator.device() };
    let both = [level(&supplies[0], 0), level(&supplies[1], 0)];
    let proof = agents().prove_death(&both).await?;
    ensure!(proof == "fence_ipmilan and fence_redfish", "{proof}");
    ensure!(!supplies[0].is_on()? && !supplies[1].is_on()?, "a power supply is on");
    agents().revive(&both).await?;
    ensure!(supplies[0].is_on()? && supplies[1].is_on()?, "a power supply is off");

    // One that is off is not both.
    supplies[1].obey_by_word_only()?;
    let text = match agents().prove_death(&both).await {
        Ok(device) => bail!("{device} was taken for proof"),
        Err(error) => error.to_string(),
    };
    ensure!(text.contains("its status says that the host is on"), "{text}");
    let switch = Simulator::start(Kind::Ipmi, true)?;
    let levels = [both[0].clone(), both[1].clone(), level(&switch, 1)];
    let proof = agents().prove_death(&levels).await?;
    ensure!(proof == "fence_ipmilan" && !switch.is_on()?, "{proof}");
    Ok(())
}

#[tokio::test]
async fn a_wrong_password_proves_nothing_and_no_password_is_in_the_error() -> Result<()> {
    for kind in KINDS {
        let simulator = Simulator::start(kind, true)?;
        let mut device = simulator.device();
        device.options.insert("password".into(), "open-sesame".into());
        let text = refusal(&[device.clone()]).await?;
        ensure!(text.contains("status ended with 1"), "{text}");
        ensure!(!text.contains("open-sesame") && !text.contains(PASSWORD), "{text}");
        // Debugging output of an agent may hold what it runs and sends.
        device.options.insert("verbose_level".into(), "3".into());
        let text = refusal(&[device]).await?;
        ensure!(!text.contains("open-sesame") && !text.contains(PASSWORD), "{text}");
        ensure!(simulator.is_on()?, "{kind:?}: the host is off");
    }
    Ok(())
}

#[tokio::test]
async fn an_off_that_is_obeyed_by_word_only_proves_nothing() -> Result<()> {
    for kind in KINDS {
        let simulator = Simulator::start(kind, true)?;
        simulator.obey_by_word_only()?;
        let text = refusal(&[simulator.device()]).await?;
        ensure!(text.contains("its status says that the host is on"), "{text}");
        ensure!(simulator.is_on()?, "{kind:?}: the host is off");
    }
    Ok(())
}

/// Processes whose command line has all these words.
fn running(words: &[&str]) -> Result<usize> {
    let lines = std::fs::read_dir("/proc")?.filter_map(|entry| {
        // Processes that end meanwhile have no command line.
        let line = std::fs::read(entry.ok()?.path().join("cmdline")).ok()?;
        Some(String::from_utf8_lossy(&line).replace('\0', " "))
    });
    Ok(lines.filter(|line| words.iter().all(|word| line.contains(word))).count())
}

#[tokio::test]
async fn a_device_that_never_answers_is_given_up_within_its_time_out_and_nothing_runs_on()
-> Result<()> {
    // Both take what they are sent, and are silent.
    let ipmi = UdpSocket::bind("127.0.0.1:0")?;
    let redfish = TcpListener::bind("127.0.0.1:0")?;
    let ipmi_port = ipmi.local_addr()?.port();
    for (kind, port) in [(Kind::Ipmi, ipmi_port), (Kind::Redfish, redfish.local_addr()?.port())] {
        let mut device = device(kind, port);
        // The agent's own patience must not be what ends it.
        device.options.insert("power_timeout".into(), "600".into());
        if kind == Kind::Ipmi {
            device.options.insert("ipmitool_timeout".into(), "600".into());
        }
        device.timeout_ms = 3_000;
        let text = refusal(&[device.clone()]).await?;
        let given_up = format!("{} status did not end within 3000 ms", device.agent);
        ensure!(text.contains(&given_up), "{text}");
    }
    // Something came in, so that it was the agent's program and not the agent that was waited for.
    ipmi.set_nonblocking(true)?;
    ensure!(ipmi.recv_from(&mut [0; 512]).is_ok(), "ipmitool was not reached");
    let port = format!("-p {ipmi_port} ");
    until("ipmitool to end", || Ok(running(&["ipmitool", &port])? == 0))
}
