//! A Berth cluster of real processes in a lab: replicas, agents, and the operator's tool.

use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use uuid::Uuid;

use crate::lab::guest::Guest;
use crate::lab::{Lab, Options, Process, binary};

/// The port of every replica.
const PORT: u16 = 7480;
const POLL: Duration = Duration::from_millis(10);
/// More than anything in the lab takes, on a machine that is busy with other things.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// How the cluster's hosts can be proven dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fencing {
    /// By the lab's fence agent.
    Agent,
    /// By the lab's fence agent, which no replica has: only through the agents of surviving nodes.
    ThroughNodes,
    /// By lease, with the lab's watchdog.
    Watchdog,
    /// By both; the first proof counts.
    Both,
}

/// How quick the cluster is (docs/tuning.md).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tuning {
    /// As it comes.
    Default,
    /// For a quiet network.
    Quiet,
}

impl Tuning {
    /// A replica's configuration file.
    fn replica_configuration(self) -> &'static str {
        match self {
            Self::Default => "",
            Self::Quiet => {
                "[raft]\nheartbeat_ms = 25\nelection_min_ms = 75\nelection_max_ms = 150\n"
            }
        }
    }
}

/// A cluster that runs.
pub struct Cluster {
    /// The lab under it.
    pub lab: Lab,
    replicas: Vec<Option<Process>>,
    fencing: Fencing,
    tuning: Tuning,
}

impl Cluster {
    /// Boots a lab, starts replicas and agents, and waits until all nodes are online.
    pub fn start(options: &Options, fencing: Fencing) -> Result<Self> {
        Self::start_tuned(options, fencing, Tuning::Default)
    }

    /// The same, as quick as is said.
    pub fn start_tuned(options: &Options, fencing: Fencing, tuning: Tuning) -> Result<Self> {
        Self::found(options, options.replicas, options.hosts, fencing, tuning)
    }

    /// The same with places for more replicas, which agents and operators know of, than found the cluster.
    pub fn start_with_spares(options: &Options, founders: usize, fencing: Fencing) -> Result<Self> {
        Self::found(options, founders, options.hosts, fencing, Tuning::Default)
    }

    /// The same with hosts of libvirt after the first `nodes` that know nothing of Berth.
    pub fn start_with_outsiders(options: &Options, nodes: usize, fencing: Fencing) -> Result<Self> {
        Self::found(options, options.replicas, nodes, fencing, Tuning::Default)
    }

    fn found(
        options: &Options,
        founders: usize,
        nodes: usize,
        fencing: Fencing,
        tuning: Tuning,
    ) -> Result<Self> {
        let lab = Lab::start(options)?;
        std::fs::write(lab.directory().join("server.toml"), tuning.replica_configuration())?;
        let mut cluster = Self { lab, replicas: Vec::new(), fencing, tuning };
        cluster.replicas.resize_with(options.replicas, || None);
        for number in 1..=founders {
            cluster.start_replica(number)?;
        }
        let members: Vec<String> = (1..=founders)
            .map(|number| format!("{number}={}", cluster.replica_endpoint(number)))
            .collect();
        let mut init = vec!["replica", "init"];
        init.extend(members.iter().map(String::as_str));
        // The replicas may not listen yet; berthctl goes on trying.
        cluster.ctl(&init)?;
        if cluster.tuning == Tuning::Quiet {
            // Before the agents, whose leases are what the settings say when they register.
            cluster.ctl(&["settings", "set", "--quiet-network"])?;
        }
        for number in 1..=nodes {
            cluster.start_agent(number)?;
        }
        cluster.wait("all nodes to be online", |status| {
            let online = status["nodes"]
                .as_array()
                .map_or(0, |nodes| nodes.iter().filter(|node| node["state"] == "online").count());
            online == nodes
        })?;
        for number in 1..=nodes {
            // The lab's hosts are on a virtual machine, perhaps, whose clock nobody pauses.
            cluster.ctl(&["node", "policy", &format!("node{number}"), "--vouch-clock"])?;
        }
        if fencing != Fencing::Watchdog {
            for number in 1..=nodes {
                let plug = format!("plug=node{number}");
                let lab = format!("lab={}", cluster.lab.control_socket().display());
                let node = format!("node{number}");
                cluster.ctl(&[
                    "node",
                    "fence",
                    &node,
                    "--agent",
                    "fence_lab",
                    "--option",
                    &plug,
                    "--option",
                    &lab,
                ])?;
            }
        }
        Ok(cluster)
    }

    /// `HOST:PORT` of a replica.
    pub fn replica_endpoint(&self, number: usize) -> String {
        format!("{}:{PORT}", self.lab.replica_address(number))
    }

    fn endpoints(&self) -> String {
        let all: Vec<_> =
            (1..=self.lab.replicas()).map(|number| self.replica_endpoint(number)).collect();
        all.join(",")
    }

    fn log(&self, name: &str) -> PathBuf {
        self.lab.directory().join(format!("{name}.log"))
    }

    /// Starts a replica, or starts it again.
    pub fn start_replica(&mut self, number: usize) -> Result<()> {
        let data = self.lab.directory().join(format!("replica{number}"));
        let agents = match self.fencing {
            Fencing::ThroughNodes => self.lab.directory().to_owned(),
            Fencing::Agent | Fencing::Watchdog | Fencing::Both => {
                binary("fence_lab")?.parent().context("a program without a folder")?.to_owned()
            }
        };
        let agents = agents.display().to_string();
        let configuration = self.lab.directory().join("server.toml").display().to_string();
        let command: Vec<String> = [
            binary("berth-server")?.display().to_string().as_str(),
            "--config",
            &configuration,
            "--id",
            &number.to_string(),
            "--listen",
            &self.replica_endpoint(number),
            "--data-dir",
            &data.display().to_string(),
            "--fence-agents",
            &agents,
            "--insecure",
        ]
        .into_iter()
        .map(Into::into)
        .collect();
        let process =
            self.lab.replica_spawn(number, &command, &self.log(&format!("replica{number}")))?;
        self.replicas[number - 1] = Some(process);
        Ok(())
    }

    /// A replica's process.
    pub fn replica(&self, number: usize) -> Result<&Process> {
        self.replicas
            .get(number - 1)
            .and_then(Option::as_ref)
            .with_context(|| format!("replica {number} does not run"))
    }

    /// Kills a replica.
    pub fn kill_replica(&mut self, number: usize) -> Result<()> {
        match self.replicas.get_mut(number - 1).and_then(Option::take) {
            Some(process) => process.kill(),
            None => bail!("replica {number} does not run"),
        }
    }

    /// Starts the agent of a host; it starts again at each boot.
    fn start_agent(&self, number: usize) -> Result<()> {
        let host = self.lab.host(number)?;
        let mut command: Vec<String> = [
            binary("berth-agent")?.display().to_string().as_str(),
            "--config",
            "/nonexistent/agent.toml",
            "--node",
            &host.name,
            "--servers",
            &self.endpoints(),
            "--migration-uri",
            &host.migration_uri(),
            "--state-dir",
            &host.state_directory().display().to_string(),
            "--run-dir",
            "/run/berth",
            "--fence-agents",
            &binary("fence_lab")?
                .parent()
                .context("a program without a folder")?
                .display()
                .to_string(),
            "--migrate-unsafe",
        ]
        .into_iter()
        .map(Into::into)
        .collect();
        if matches!(self.fencing, Fencing::Watchdog | Fencing::Both) {
            command.extend(["--watchdog".into(), "/run/berth-watchdog".into()]);
        }
        host.set_service("agent", command, &self.log(&format!("agent{number}")))
    }

    /// The operator's tool, ready to be run.
    pub fn ctl_command(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = Command::new(binary("berthctl")?);
        command.args(arguments).env("BERTH_SERVERS", self.endpoints()).env("BERTH_OPERATOR", "lab");
        Ok(command)
    }

    /// Runs the operator's tool.
    pub fn ctl_output(&self, arguments: &[&str]) -> Result<Output> {
        Ok(self.ctl_command(arguments)?.output()?)
    }

    /// Runs the operator's tool and wants it to succeed.
    pub fn ctl(&self, arguments: &[&str]) -> Result<String> {
        let output = self.ctl_output(arguments)?;
        if !output.status.success() {
            let text = String::from_utf8_lossy(&output.stderr);
            bail!("berthctl {}: {}: {}", arguments.join(" "), output.status, text.trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs the operator's tool, wants it to end with this code, and returns what it said of that.
    pub fn refused(&self, arguments: &[&str], code: i32) -> Result<String> {
        let output = self.ctl_output(arguments)?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(
            output.status.code() == Some(code),
            "{arguments:?}: {} instead of {code}: {said}",
            output.status
        );
        Ok(said)
    }

    /// What was told of a VM by events of this kind, oldest first.
    pub fn told(&self, vm: &str, kind: &str) -> Result<Vec<String>> {
        let text = self.ctl(&["events", "--vm", vm, "--json"])?;
        let mut told = Vec::new();
        for line in text.lines() {
            let event: Value = serde_json::from_str(line)?;
            if event["kind"] == kind {
                told.push(event["text"].as_str().unwrap_or_default().to_owned());
            }
        }
        Ok(told)
    }

    /// The process of the guest's QEMU on a host, by its number from 1.
    pub fn qemu(&self, host: usize, guest: &Guest) -> Result<i32> {
        let all = self.lab.host(host)?.qemus()?;
        all.get(&guest.uuid).copied().with_context(|| format!("{} is not there", guest.name))
    }

    /// The status, as programs see it.
    pub fn status(&self) -> Result<Value> {
        Ok(serde_json::from_str(&self.ctl(&["status", "--json"])?)?)
    }

    /// Which replica leads.
    pub fn leader(&self) -> Result<usize> {
        let status = self.status()?;
        Ok(status["leader"].as_u64().context("no leader")? as usize)
    }

    /// Waits until the status is as wanted.
    pub fn wait(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        let begun = Instant::now();
        let mut last = String::new();
        while begun.elapsed() < PATIENCE {
            match self.status() {
                Ok(status) if wanted(&status) => return Ok(status),
                Ok(status) => last = status.to_string(),
                Err(error) => last = format!("{error:#}"),
            }
            std::thread::sleep(POLL);
        }
        bail!("waited in vain for {what}: {last}")
    }

    /// Waits until a VM is in a state, on a node where one is named.
    pub fn wait_vm(&self, vm: &str, state: &str, node: Option<&str>) -> Result<Value> {
        let status = self.wait(&format!("{vm} to be {state} on {node:?}"), |status| {
            find(status, vm).is_some_and(|it| {
                it["state"] == state && node.is_none_or(|node| it["owner"] == node)
            })
        })?;
        find(&status, vm).cloned().context("the VM is gone")
    }

    /// A VM as it is now.
    pub fn vm(&self, vm: &str) -> Result<Value> {
        let status = self.status()?;
        find(&status, vm).cloned().with_context(|| format!("there is no VM {vm}"))
    }

    /// Makes a guest and puts it under management.
    pub fn add_guest(&self, name: &str) -> Result<Guest> {
        let guest = Guest::make(&self.lab.directory().join("shared"), name, false)?;
        self.add(&guest)?;
        Ok(guest)
    }

    /// Puts a guest under management.
    pub fn add(&self, guest: &Guest) -> Result<()> {
        let xml = guest.write_xml()?.display().to_string();
        self.ctl(&["vm", "add", &xml, "--stop-timeout", "20s"]).map(drop)
    }

    /// On which hosts a QEMU with this UUID runs, by the kernel's word.
    pub fn where_runs(&self, uuid: Uuid) -> Result<Vec<String>> {
        let mut places = Vec::new();
        for host in self.lab.hosts().filter(|host| host.is_on()) {
            if host.qemus()?.contains_key(&uuid) {
                places.push(host.name.clone());
            }
        }
        Ok(places)
    }

    /// Waits until the guest has counted further, and no stranger has written to its disk.
    pub fn wait_counting(&self, guest: &Guest) -> Result<u32> {
        let begun = Instant::now();
        let before = guest.count()?.map_or(0, |count| count.counter);
        while begun.elapsed() < PATIENCE {
            if let Some(count) = guest.count()?.filter(|count| count.counter > before + 1) {
                ensure!(
                    count.strangers == 0,
                    "{} found {} strange writes on its disk",
                    guest.name,
                    count.strangers
                );
                return Ok(count.counter);
            }
            std::thread::sleep(POLL);
        }
        bail!("{} does not count", guest.name)
    }
}

/// A VM in a status.
pub fn find<'s>(status: &'s Value, vm: &str) -> Option<&'s Value> {
    status["vms"].as_array()?.iter().find(|it| it["name"] == vm)
}

/// A node in a status.
pub fn find_node<'s>(status: &'s Value, node: &str) -> Option<&'s Value> {
    status["nodes"].as_array()?.iter().find(|it| it["name"] == node)
}

/// Whether a node is in a state.
pub fn node_is(status: &Value, node: &str, state: &str) -> bool {
    find_node(status, node).is_some_and(|it| it["state"] == state)
}
