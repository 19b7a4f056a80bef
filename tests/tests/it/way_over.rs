//! The move of a live two-node RGManager cluster: VMs keep running through it, and takeover works after it.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use tests::cluster::{Cluster, Fencing, find, find_node};
use tests::lab::guest::Guest;
use tests::lab::{Options, enter_test};

const CLUSTER_CONF: &str = r#"<?xml version="1.0"?>
<cluster name="old" config_version="7">
  <clusternodes>
    <clusternode name="node1" nodeid="1"><fence><method name="1"><device name="lab" plug="node1"/></method></fence></clusternode>
    <clusternode name="node2" nodeid="2"><fence><method name="1"><device name="lab" plug="node2"/></method></fence></clusternode>
  </clusternodes>
  <fencedevices><fencedevice name="lab" agent="fence_lab" lab="LAB"/></fencedevices>
  <rm>
    <failoverdomains>
      <failoverdomain name="prefer_1" ordered="1" nofailback="1">
        <failoverdomainnode name="node1" priority="1"/>
        <failoverdomainnode name="node2" priority="2"/>
      </failoverdomain>
    </failoverdomains>
    <vm name="web" domain="prefer_1" autostart="1" recovery="relocate" max_restarts="2" restart_expire_time="600"/>
    <vm name="db" domain="prefer_1" no_kill="1" migrate_options="--unsafe"/>
    <vm name="idle" autostart="0"/>
  </rm>
</cluster>
"#;

/// The tool by a name of RGManager's, as the package's symbolic links call it.
pub(super) fn old_tool(cluster: &Cluster, name: &str, arguments: &[&str]) -> Result<(i32, String)> {
    let berthctl = PathBuf::from(cluster.ctl_command(&[])?.get_program());
    let link = cluster.lab.directory().join(name);
    if !link.exists() {
        std::os::unix::fs::symlink(berthctl, &link)?;
    }
    let with_servers = cluster.ctl_command(&[])?;
    let mut command = Command::new(link);
    command.args(arguments).env("BERTH_NODE", "node1");
    for (key, value) in with_servers.get_envs() {
        if let Some(value) = value {
            command.env(key, value);
        }
    }
    let output = command.output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    println!("# {name} {}\n{said}(exit code {:?})\n", arguments.join(" "), output.status.code());
    Ok((output.status.code().context("no exit code")?, said))
}

/// A service of one VM, which no rule lets migrate with it, in a restricted domain without this node.
fn the_old_tools_act_on_a_service(cluster: &Cluster, directory: &Path) -> Result<()> {
    let act = |arguments: &[&str]| old_tool(cluster, "clusvcadm", arguments);
    cluster.ctl(&["failover-domain", "set", "only_2", "--restricted", "--node", "node2"])?;
    let file = directory.join("shop.yaml");
    std::fs::write(
        &file,
        "name: shop\npolicy: {failover_domain: only_2}\nmembers: [{vm: idle}]\n",
    )?;
    let file = text(&file);
    cluster.ctl(&["service", "add", "--file", &file])?;
    let (code, said) = act(&["-e", "shop"])?;
    ensure!(code == 241 && said.ends_with("Service not runnable\n"), "{code} {said}");
    ensure!(act(&["-l"])?.0 == 0);
    let begun = std::time::Instant::now();
    let (code, said) = act(&["-e", "shop", "-F"])?;
    ensure!(code == 250 && said.ends_with("Temporary failure; try again\n"), "{code} {said}");
    ensure!(begun.elapsed().as_secs() < 10, "a lock is not waited for: {:?}", begun.elapsed());
    ensure!(act(&["-u"])?.0 == 0);
    let (code, said) = act(&["-e", "shop", "-F"])?;
    ensure!(code == 0 && said.ends_with("service:shop is now running on node2\n"), "{code} {said}");
    let (code, said) = act(&["-e", "shop"])?;
    ensure!(code == 0 && said.ends_with("Service is already running\n"), "{code} {said}");
    let (code, said) = act(&["-M", "shop", "-m", "node1"])?;
    ensure!(code == 248 && said.ends_with("Invalid operation for resource\n"), "{code} {said}");
    ensure!(act(&["-U", "shop"])?.0 == 0, "what is not frozen is thawed already");
    ensure!(act(&["-Z", "shop"])?.0 == 0);
    let (code, said) = act(&["-e", "shop"])?;
    ensure!(code == 245 && said.ends_with("Failure: Service is frozen\n"), "{code} {said}");
    ensure!(act(&["-U", "shop"])?.0 == 0);
    ensure!(old_tool(cluster, "clustat", &["-s", "shop"])?.0 == 0);
    let refused = cluster.ctl_output(&["stop", "service:shop", "--now"])?;
    ensure!(String::from_utf8_lossy(&refused.stderr).contains("--now is for VMs"));
    let refused =
        cluster.ctl_output(&["service", "edit", "--file", &file, "--if-definition", "1"])?;
    ensure!(refused.status.code() == Some(3), "{refused:?}");
    // As it is exported it can be given back to it.
    let all: serde_json::Value = serde_saphyr::from_str(&cluster.ctl(&["export"])?)?;
    let mut shop = all["services"]["shop"].clone();
    shop["name"] = "shop".into();
    std::fs::write(&file, shop.to_string())?;
    let known = cluster.ctl(&["service", "show", "shop", "--json"])?;
    let known: serde_json::Value = serde_json::from_str(&known)?;
    let revision = known["definition_revision"].to_string();
    cluster.ctl(&["service", "edit", "--file", &file, "--if-definition", &revision])?;
    let (code, said) = act(&["-d", "shop"])?;
    ensure!(code == 0, "{code} {said}");
    ensure!(old_tool(cluster, "clustat", &["-s", "shop"])?.0 == 119);
    cluster.ctl(&["service", "forget", "shop"])?;
    Ok(())
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

#[test]
fn a_live_rgmanager_cluster_moves_over_and_its_vms_run_through_it() -> Result<()> {
    if !enter_test("way_over::a_live_rgmanager_cluster_moves_over_and_its_vms_run_through_it")? {
        return Ok(());
    }
    let cluster = Cluster::start(&Options { hosts: 2, replicas: 3 }, Fencing::Agent)?;
    let directory = cluster.lab.directory().to_owned();
    // As RGManager leaves them: persistent domains, defined on both hosts, two of them running.
    let mut guests = Vec::new();
    for name in ["web", "db", "idle"] {
        let guest = Guest::make(&directory.join("shared"), name, false)?;
        let xml = text(&guest.write_xml()?);
        for host in 1..=2 {
            cluster.lab.host(host)?.virsh(&["define", &xml])?;
        }
        guests.push(guest);
    }
    cluster.lab.host(1)?.virsh(&["start", "web"])?;
    cluster.lab.host(2)?.virsh(&["start", "db"])?;
    // The agents come to hosts that have their domains already.
    for number in 1..=2 {
        let host = cluster.lab.host(number)?;
        host.with_service("agent", |agent| agent.kill())?;
        host.restart_service("agent")?;
    }
    let (web, db, idle) = (&guests[0], &guests[1], &guests[2]);
    let before =
        (cluster.lab.host(1)?.qemus()?[&web.uuid], cluster.lab.host(2)?.qemus()?[&db.uuid]);
    cluster.wait("the agents to tell of the domains", |status| {
        let told = |node: &str, name: &str, presence: &str| {
            find_node(status, node).and_then(|node| node["unmanaged"].as_array()).is_some_and(
                |all| all.iter().any(|it| it["name"] == name && it["presence"] == presence),
            )
        };
        told("node1", "web", "running")
            && told("node2", "db", "running")
            && told("node1", "idle", "inactive")
    })?;

    // Adopt: nothing is touched, and each is taken where it runs.
    let said = cluster.ctl(&["adopt", "--all", "--dry-run"])?;
    ensure!(said.contains("web: would be taken where it runs, on node1"), "{said}");
    ensure!(cluster.status()?["vms"].as_array().is_some_and(Vec::is_empty));
    let said = cluster.ctl(&["adopt", "--all"])?;
    println!("# berthctl adopt --all\n{said}");
    ensure!(said.contains("db: taken where it runs, on node2"), "{said}");
    ensure!(said.contains("idle: taken, disabled; it is defined on node1"), "{said}");
    cluster.wait_vm("web", "started", Some("node1"))?;
    cluster.wait_vm("db", "started", Some("node2"))?;
    ensure!(cluster.vm("idle")?["state"] == "disabled");
    let refused = cluster.ctl_output(&["adopt", "web"])?;
    ensure!(String::from_utf8_lossy(&refused.stderr).contains("web is managed already"));

    // Import and apply: policies, failover domain and fence devices, while all runs on.
    let conf = directory.join("cluster.conf");
    let lab = text(&cluster.lab.control_socket());
    std::fs::write(&conf, CLUSTER_CONF.replace("LAB", &lab))?;
    let (conf, fleet) = (text(&conf), text(&directory.join("fleet.yaml")));
    let said = cluster.ctl(&["import", &conf, "--output", &fleet, "--root", &text(&directory)])?;
    println!("# berthctl import cluster.conf\n{said}");
    let said = cluster.ctl(&["diff", "-f", &fleet])?;
    println!("# berthctl diff -f fleet.yaml\n{said}");
    ensure!(said.contains("policy.failover_domain: nothing -> prefer_1"), "{said}");
    cluster.ctl(&["apply", "-f", &fleet, "--yes"])?;
    ensure!(cluster.vm("web")?["policy"]["recovery"] == "relocate");
    let again = cluster.ctl(&["export"])?;
    let exported = directory.join("exported.yaml");
    std::fs::write(&exported, &again)?;
    let exported = text(&exported);
    ensure!(
        cluster.ctl(&["diff", "-f", &exported, "--exit-code"])?.contains("nothing would change")
    );
    let after = (cluster.lab.host(1)?.qemus()?[&web.uuid], cluster.lab.host(2)?.qemus()?[&db.uuid]);
    ensure!(before == after, "the QEMUs are the same processes: {before:?} {after:?}");
    ensure!(cluster.where_runs(idle.uuid)?.is_empty(), "nothing was started");
    cluster.wait_counting(web)?;
    cluster.wait_counting(db)?;

    // The old tools.
    let (code, said) = old_tool(&cluster, "clustat", &[])?;
    let row = format!(" {:<30} {:<30} started", "vm:web", "node1");
    ensure!(code == 0 && said.contains(&row), "{said}");
    ensure!(
        said.contains("Member Status: Quorate") && said.contains("Online, Local, rgmanager"),
        "{said}"
    );
    let (_, said) = old_tool(&cluster, "clustat", &["-x"])?;
    ensure!(
        said.contains("<group name=\"vm:idle\" state=\"119\" state_str=\"disabled\""),
        "{said}"
    );
    ensure!(old_tool(&cluster, "clustat", &["-s", "vm:idle"])?.0 == 119);
    ensure!(old_tool(&cluster, "clustat", &["-Q"])?.0 == 0);
    let act = |arguments: &[&str]| old_tool(&cluster, "clusvcadm", arguments);
    let (code, said) = act(&["-e", "vm:web"])?;
    ensure!(
        (code, said.as_str())
            == (0, "Local machine trying to enable vm:web...Service is already running\n"),
        "{code} {said}"
    );
    let (code, said) = act(&["-M", "vm:db", "-m", "node1"])?;
    ensure!(
        (code, said.as_str()) == (0, "Trying to migrate vm:db to node1...Success\n"),
        "{code} {said}"
    );
    ensure!(cluster.where_runs(db.uuid)? == ["node1"]);
    let (code, said) = act(&["-e", "vm:idle", "-m", "node2"])?;
    ensure!(
        (code, said.as_str())
            == (
                0,
                "Member node2 trying to enable vm:idle...Success\nvm:idle is now running on node2\n"
            ),
        "{code} {said}"
    );
    ensure!(act(&["-Z", "vm:idle"])? == (0, "Local machine freezing vm:idle...Success\n".into()));
    let (code, said) = act(&["-d", "vm:idle"])?;
    ensure!(
        (code, said.as_str())
            == (245, "Local machine disabling vm:idle...Failure: Service is frozen\n"),
        "{code} {said}"
    );
    ensure!(act(&["-U", "vm:idle"])?.0 == 0);
    ensure!(act(&["-d", "vm:idle"])? == (0, "Local machine disabling vm:idle...Success\n".into()));
    // Complaint "-F reported the wrong owner": by the domain's rules it goes elsewhere than where it was asked for.
    let back = ["--node", "node2:1", "--node", "node1:2"];
    cluster.ctl(&[&["failover-domain", "set", "prefer_2", "--ordered"][..], &back].concat())?;
    cluster.ctl(&["vm", "edit", "idle", "--failover-domain", "prefer_2"])?;
    let (code, said) = act(&["-F", "-e", "vm:idle"])?;
    ensure!(code == 0 && said.ends_with("vm:idle is now running on node2\n"), "{code} {said}");
    ensure!(cluster.where_runs(idle.uuid)? == ["node2"]);
    ensure!(act(&["-d", "vm:idle"])?.0 == 0);
    let (code, said) = act(&["-e", "vm:nobody"])?;
    ensure!(code == 252 && said.ends_with("Service does not exist\n"), "{code} {said}");
    ensure!(act(&["-l"])? == (0, "Resource groups locked\n".into()));
    ensure!(act(&["-S"])? == (0, "Resource groups locked\n".into()));
    ensure!(act(&["-u"])? == (0, "Resource groups unlocked\n".into()));
    the_old_tools_act_on_a_service(&cluster, &directory)?;

    cluster.wait("what guests use to be measured", |status| {
        let uses = |it: Option<&serde_json::Value>| {
            it.is_some_and(|it| it["measured"]["memory_mib"].as_u64().is_some_and(|mib| mib > 0))
        };
        uses(find(status, "web")) && uses(find_node(status, "node1"))
    })?;
    let said = cluster.ctl(&["vm", "show", "web"])?;
    let told = said.lines().find(|line| line.starts_with("its guest uses"));
    ensure!(told.is_some_and(|line| line.ends_with("MiB")), "{said}");
    let said = cluster.ctl(&["node", "show", "node1"])?;
    ensure!(
        said.lines().any(|line| line.starts_with("its VMs use") && line.ends_with("MiB")),
        "{said}"
    );

    // And what it is for: the host is lost, its VMs start on the other.
    cluster.lab.host(1)?.power_cut()?;
    cluster.wait("both to run on node2", |status| {
        ["web", "db"].iter().all(|name| {
            find(status, name).is_some_and(|vm| vm["state"] == "started" && vm["owner"] == "node2")
        })
    })?;
    cluster.wait_counting(web)?;
    cluster.wait_counting(db)?;
    ensure!(cluster.where_runs(web.uuid)? == ["node2"]);
    Ok(())
}
