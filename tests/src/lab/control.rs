//! The lab's power switch: a socket that takes one line and answers with one. For fence agents and for people.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, bail};

use crate::lab::Host;

type Hosts = BTreeMap<String, Arc<Host>>;

/// The listening switch; it works until the process ends.
pub struct Control;

impl Control {
    pub(crate) fn listen(path: &Path, hosts: Hosts) -> Result<Self> {
        let listener = UnixListener::bind(path)?;
        let dark = Arc::new(AtomicBool::new(false));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (hosts, dark) = (hosts.clone(), dark.clone());
                std::thread::spawn(move || {
                    if let Err(error) = serve(stream, &hosts, &dark) {
                        eprintln!("lab: the power switch: {error:#}");
                    }
                });
            }
        });
        Ok(Self)
    }
}

fn serve(mut stream: UnixStream, hosts: &Hosts, dark: &AtomicBool) -> Result<()> {
    let mut line = String::new();
    BufReader::new(stream.try_clone()?).read_line(&mut line)?;
    let answer = match act(line.trim(), hosts, dark) {
        Ok(answer) => format!("ok {answer}\n"),
        Err(error) => format!("error {error:#}\n"),
    };
    stream.write_all(answer.as_bytes())?;
    Ok(())
}

fn act(line: &str, hosts: &Hosts, dark: &AtomicBool) -> Result<String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let host = |name: &str| hosts.get(name).with_context(|| format!("there is no host {name}"));
    match words.as_slice() {
        ["dark", word @ ("on" | "off")] => dark.store(*word == "on", Ordering::SeqCst),
        ["fence", ..] if dark.load(Ordering::SeqCst) => bail!("the fence device is dark"),
        ["fence" | "power", "status", name] => {
            return Ok(if host(name)?.is_on() { "on" } else { "off" }.into());
        }
        ["fence" | "power", "off", name] => host(name)?.power_cut()?,
        ["fence" | "power", "on", name] => host(name)?.power_on()?,
        ["link", word @ ("up" | "down"), name] => host(name)?.link(*word == "up")?,
        _ => bail!("unknown: {line:?}; power on|off|status NODE, link up|down NODE, dark on|off"),
    }
    Ok("done".into())
}

/// Says one line to the switch of a lab, and returns its answer.
pub fn say(socket: &Path, line: &str) -> Result<String> {
    let mut stream = UnixStream::connect(socket)
        .with_context(|| format!("no lab listens at {}", socket.display()))?;
    writeln!(stream, "{line}")?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer)?;
    match answer.trim().split_once(' ') {
        Some(("ok", text)) => Ok(text.to_owned()),
        _ => bail!("{}", answer.trim()),
    }
}
