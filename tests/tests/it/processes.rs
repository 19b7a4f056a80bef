//! Bad input and bad luck of single processes, on loopback.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tests::lab::binary;

pub(super) struct Server {
    pub(super) child: Child,
    pub(super) address: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(super) fn free_address() -> Result<String> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string())
}

pub(super) fn command(id: u64, address: &str, data: &Path) -> Result<Command> {
    command_with(Path::new("/nonexistent"), id, address, data)
}

/// The same with a configuration file.
pub(super) fn command_with(config: &Path, id: u64, address: &str, data: &Path) -> Result<Command> {
    let mut command = Command::new(binary("berth-server")?);
    command.args(["--id", &id.to_string(), "--listen", address, "--config"]).arg(config);
    command.arg("--data-dir").arg(data);
    Ok(command)
}

/// A server that is expected to refuse: what it says.
fn refuses(id: u64, address: &str, data: &Path) -> Result<String> {
    let output = command(id, address, data)?.output()?;
    ensure!(!output.status.success(), "it did not refuse");
    Ok(String::from_utf8_lossy(&output.stderr).into_owned())
}

pub(super) fn ctl(address: &str, arguments: &[&str]) -> Result<Output> {
    Ok(Command::new(binary("berthctl")?).args(arguments).env("BERTH_SERVERS", address).output()?)
}

/// One replica that is a cluster by itself.
fn single(data: &Path) -> Result<Server> {
    let address = free_address()?;
    let child = command(1, &address, data)?.stderr(Stdio::null()).spawn()?;
    let server = Server { child, address };
    let output = ctl(&server.address, &["replica", "init", &format!("1={}", server.address)])?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(server)
}

pub(super) fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

pub(super) const XML: &str =
    "<domain type='qemu'>\n<name>v</name>\n<memory>16384</memory>\n</domain>";

#[test]
fn a_server_refuses_what_it_cannot_serve_with_the_reason_and_the_way_out() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let data = directory.path().join("data");
    let server = single(&data)?;
    let text = refuses(2, &server.address, &directory.path().join("other"))?;
    ensure!(text.contains("cannot listen on") && text.contains("another berth-server"), "{text}");
    drop(server);
    let address = free_address()?;
    let text = refuses(2, &address, &data)?;
    ensure!(text.contains("belongs to replica 1"), "{text}");
    std::fs::write(data.join("FORMAT"), "7\n")?;
    let text = refuses(1, &address, &data)?;
    ensure!(text.contains("format 7") && text.contains("install a version as new"), "{text}");
    let text = refuses(1, "192.0.2.1:7480", &data)?;
    ensure!(text.contains("not a loopback address"), "{text}");
    Ok(())
}

#[test]
fn a_request_without_a_leader_or_a_replica_says_so() -> Result<()> {
    let nobody = free_address()?;
    let output = ctl(&nobody, &["status", "--timeout", "1s"])?;
    ensure!(output.status.code() == Some(7), "{}: {}", output.status, said(&output));
    let directory = tempfile::tempdir()?;
    let address = free_address()?;
    let child = command(1, &address, directory.path())?.stderr(Stdio::null()).spawn()?;
    let _server = Server { child, address: address.clone() };
    let output = ctl(&address, &["enable", "v", "--timeout", "2s", "--json"])?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(
        output.status.code() == Some(7) && text.contains("no leader"),
        "{}: {text}",
        output.status
    );
    Ok(())
}

/// The replica is named in a file, for `berthctl` and the old tools alike.
#[test]
fn berthctl_and_the_old_tools_find_the_replicas_in_a_file() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let server = single(&directory.path().join("data"))?;
    let file = directory.path().join("ctl.toml");
    std::fs::write(&file, format!("servers = ['{}']\n", server.address))?;
    let tool = |name: &str, arguments: &[&str]| -> Result<Output> {
        let link = directory.path().join(name);
        if !link.exists() {
            std::os::unix::fs::symlink(binary("berthctl")?, &link)?;
        }
        let mut command = Command::new(link);
        let command = command.args(arguments).env("BERTH_CTL_CONFIG", &file);
        Ok(command.env_remove("BERTH_SERVERS").output()?)
    };
    let output = tool("clustat", &[])?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success() && text.contains("Member Status: Quorate"), "{output:?}");
    let output = tool("clusvcadm", &["-S"])?;
    ensure!(output.stdout == b"Resource groups unlocked\n", "{output:?}");
    let output = tool("berthctl", &["status"])?;
    ensure!(output.status.success(), "{output:?}");
    std::fs::write(&file, "server = 'x'\n")?;
    for (name, arguments) in [("clustat", &[] as &[&str]), ("berthctl", &["status"])] {
        let output = tool(name, arguments)?;
        ensure!(said(&output).contains("unknown field `server`"), "{name}: {output:?}");
        ensure!(!output.status.success(), "{name}: {output:?}");
    }
    Ok(())
}

/// RGManager's callers wrapped its tools in `timeout 15`.
#[test]
fn complaint_commands_hung_for_ever() -> Result<()> {
    // A replica that stands still: the kernel takes its connections, and nobody answers.
    let still = TcpListener::bind("127.0.0.1:0")?;
    let address = still.local_addr()?.to_string();
    for arguments in [&["status"][..], &["enable", "v"], &["disable", "v"], &["vm", "show", "v"]] {
        let begun = Instant::now();
        let output = ctl(&address, &[arguments, &["--timeout", "1s"]].concat())?;
        ensure!(output.status.code() == Some(7), "{}: {}", output.status, said(&output));
        // Its own second, and what a busy machine takes to start it.
        ensure!(
            begun.elapsed() < Duration::from_secs(10),
            "{arguments:?} took {:?}",
            begun.elapsed()
        );
    }
    Ok(())
}

#[test]
fn a_request_whose_answer_was_lost_is_done_once() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let server = single(&directory.path().join("data"))?;
    let file = directory.path().join("v.xml");
    std::fs::write(&file, XML)?;
    let proxy = TcpListener::bind("127.0.0.1:0")?;
    let address = proxy.local_addr()?.to_string();
    let behind = server.address.clone();
    std::thread::spawn(move || {
        for (number, client) in proxy.incoming().flatten().enumerate() {
            if let Ok(server) = TcpStream::connect(&behind) {
                std::thread::spawn(move || relay(client, server, number == 0));
            }
        }
    });
    let output = ctl(&address, &["vm", "add", &file.display().to_string()])?;
    ensure!(output.status.success(), "{}: {}", output.status, said(&output));
    let events = ctl(&server.address, &["events", "--json"])?;
    let added = String::from_utf8_lossy(&events.stdout).matches("vm-added").count();
    ensure!(added == 1, "it was added {added} times");
    Ok(())
}

/// Passes everything on; or loses the answer: the server's greeting goes through, and once the request has had time to
/// be done the connection breaks.
fn relay(client: TcpStream, server: TcpStream, lose: bool) {
    let (Ok(mut from_client), Ok(mut to_server)) = (client.try_clone(), server.try_clone()) else {
        return;
    };
    std::thread::spawn(move || std::io::copy(&mut from_client, &mut to_server));
    let (mut server, mut client) = (server, client);
    if !lose {
        let _ = std::io::copy(&mut server, &mut client);
        return;
    }
    let mut passed = 0;
    let mut bytes = [0u8; 4096];
    // The greeting and its acknowledgements are short; the answer has the headers of a reply.
    while let Ok(count) = server.read(&mut bytes) {
        passed += count;
        if count == 0 || passed > 90 || client.write_all(&bytes[..count]).is_err() {
            break;
        }
    }
    let _ = client.shutdown(std::net::Shutdown::Both);
    let _ = server.shutdown(std::net::Shutdown::Both);
}

#[test]
fn a_full_disk_stops_the_replica_with_the_reason_and_loses_nothing() -> Result<()> {
    let inner = "processes::a_full_disk_stops_the_replica_with_the_reason_and_loses_nothing";
    if !tests::lab::enter_test(inner)? {
        return Ok(());
    }
    tests::lab::run("ip", &["link", "set", "lo", "up"])?;
    let directory = tempfile::tempdir()?;
    let data = directory.path().join("data");
    std::fs::create_dir(&data)?;
    let place = data.display().to_string();
    tests::lab::run("mount", &["-t", "tmpfs", "-o", "size=8m", "tmpfs", &place])?;
    let mut server = single(&data)?;
    let mut acknowledged = Vec::new();
    let begun = Instant::now();
    let padding = "x".repeat(60_000);
    for number in 0.. {
        let file = directory.path().join("v.xml");
        let xml =
            XML.replace("<name>v", &format!("<description>{padding}</description><name>v{number}"));
        std::fs::write(&file, xml)?;
        let output =
            ctl(&server.address, &["vm", "add", &file.display().to_string(), "--timeout", "3s"])?;
        if output.status.success() {
            acknowledged.push(format!("v{number}"));
        } else {
            break;
        }
        ensure!(begun.elapsed() < Duration::from_secs(60), "the disk does not fill");
    }
    let stopped = wait_end(&mut server.child)?;
    ensure!(!stopped.success(), "a replica whose disk is full stops");
    ensure!(!acknowledged.is_empty());
    // With room again, all that was acknowledged is there.
    tests::lab::run("mount", &["-o", "remount,size=64m", &place])?;
    let child = command(1, &server.address, &data)?.stderr(Stdio::null()).spawn()?;
    let server = Server { child, address: server.address.clone() };
    let output = ctl(&server.address, &["vm", "list", "--json"])?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let missing: Vec<_> = acknowledged
        .iter()
        .filter(|name| !text.contains(&format!("\"name\": \"{name}\"")))
        .collect();
    ensure!(
        output.status.success() && missing.is_empty(),
        "{}: missing {missing:?}",
        said(&output)
    );
    drop(server);
    // Nothing may hold the mount when it goes.
    tests::lab::run("umount", &["--lazy", &place]).map(drop)
}

fn wait_end(child: &mut Child) -> Result<std::process::ExitStatus> {
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(30) {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    bail!("it did not stop")
}

#[test]
fn an_agent_without_libvirt_or_servers_says_so() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let agent = |arguments: &[&str]| {
        let mut command = Command::new(binary("berth-agent")?);
        command
            .args(["--config", "/nonexistent", "--node", "n1", "--state-dir"])
            .arg(directory.path());
        command.arg("--run-dir").arg(directory.path()).args(arguments).stderr(Stdio::piped());
        Ok::<_, anyhow::Error>(command)
    };
    let output = agent(&[])?.output()?;
    ensure!(
        !output.status.success() && said(&output).contains("name the replicas as HOST:PORT"),
        "{}",
        said(&output)
    );
    let uri = "qemu+unix:///system?socket=/nonexistent/socket";
    let mut child = agent(&["--servers", "127.0.0.1:1", "--hypervisor-uri", uri])?.spawn()?;
    let mut stderr = child.stderr.take().context("no stderr")?;
    let mut text = String::new();
    let mut bytes = [0u8; 1024];
    // It goes on trying: a libvirt that starts later is taken up.
    while !text.contains("libvirt is not reachable") {
        let count = stderr.read(&mut bytes)?;
        ensure!(count > 0, "the agent ended: {text}");
        text.push_str(&String::from_utf8_lossy(&bytes[..count]));
    }
    child.kill()?;
    child.wait()?;
    Ok(())
}

#[test]
fn completions_and_domain_checks_need_no_cluster() -> Result<()> {
    let output = ctl("127.0.0.1:1", &["completions", "bash"])?;
    ensure!(
        output.status.success() && String::from_utf8_lossy(&output.stdout).contains("berthctl")
    );
    let directory = tempfile::tempdir()?;
    let (good, bad) = (directory.path().join("good.xml"), directory.path().join("bad.xml"));
    std::fs::write(&good, XML)?;
    std::fs::write(&bad, XML.replace("</domain>", ""))?;
    let output = ctl(
        "127.0.0.1:1",
        &["vm", "check", &good.display().to_string(), &bad.display().to_string()],
    )?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(
        output.status.code() == Some(9) && text.contains("ok ") && text.contains("line 4"),
        "{text}"
    );
    Ok(())
}
