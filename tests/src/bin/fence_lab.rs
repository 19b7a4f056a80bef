//! A fence agent for the lab, by the fence-agents standard interface: `key=value` lines on standard input, the verdict
//! as exit code.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;
use std::process::ExitCode;

use tests::lab::control::say;

const METADATA: &str = r#"<?xml version="1.0" ?>
<resource-agent name="fence_lab" shortdesc="Fence agent for Berth's lab">
<longdesc>Cuts and restores the power of a lab host through the lab's power switch.</longdesc>
<parameters>
<parameter name="action" required="1"><content type="string" default="reboot"/></parameter>
<parameter name="plug" required="1"><content type="string"/><shortdesc lang="en">The host</shortdesc></parameter>
<parameter name="lab" required="1"><content type="string"/><shortdesc lang="en">The power switch's socket</shortdesc></parameter>
</parameters>
<actions><action name="on"/><action name="off"/><action name="reboot"/><action name="status"/><action name="monitor"/><action name="metadata"/></actions>
</resource-agent>"#;

fn main() -> ExitCode {
    let mut text = String::new();
    if std::io::stdin().read_to_string(&mut text).is_err() {
        return ExitCode::FAILURE;
    }
    let options: BTreeMap<&str, &str> =
        text.lines().filter_map(|line| line.trim().split_once('=')).collect();
    let action = options.get("action").copied().unwrap_or("reboot");
    if action == "metadata" {
        println!("{METADATA}");
        return ExitCode::SUCCESS;
    }
    let (Some(plug), Some(lab)) = (options.get("plug"), options.get("lab")) else {
        eprintln!("fence_lab: plug and lab must be given");
        return ExitCode::FAILURE;
    };
    let ask = |word: &str| say(Path::new(lab), &format!("fence {word} {plug}"));
    let answer = match action {
        "on" | "off" => ask(action).map(|_| ExitCode::SUCCESS),
        "reboot" => ask("off").and_then(|_| ask("on")).map(|_| ExitCode::SUCCESS),
        // The standard's code for "off" is 2.
        "status" => ask("status")
            .map(|state| if state == "off" { ExitCode::from(2) } else { ExitCode::SUCCESS }),
        "monitor" => ask("status").map(|_| ExitCode::SUCCESS),
        other => Err(anyhow::anyhow!("there is no action {other}")),
    };
    answer.unwrap_or_else(|error| {
        eprintln!("fence_lab: {error:#}");
        ExitCode::FAILURE
    })
}
