//! Why a VM is as it is, and where it could run.

use proto::v1;
use serde::Serialize;
use tonic::Response;

use crate::cmd::Context;
use crate::exit::Failure;
use crate::render::{self, Event, Vm, table, time};

#[derive(Serialize)]
struct Explanation {
    vm: Vm,
    candidates: Vec<Candidate>,
    events: Vec<Event>,
}

#[derive(Serialize)]
struct Candidate {
    node: String,
    priority: Option<u32>,
    free_memory_mib: i64,
    free_vcpus: i64,
    refused: Option<String>,
}

pub(super) async fn run(cx: &Context, name: &str) -> Result<(), Failure> {
    let message = v1::ExplainVmRequest { vm: name.to_owned() };
    let there = cx
        .cluster
        .ask(|mut client| {
            let message = message.clone();
            async move { client.explain_vm(message).await.map(Response::into_inner) }
        })
        .await?;
    let vm = there.vm.unwrap_or_default();
    let candidates: Vec<_> = there
        .candidates
        .into_iter()
        .map(|candidate| Candidate {
            node: candidate.node,
            priority: candidate.priority,
            free_memory_mib: candidate.free_memory_mib,
            free_vcpus: candidate.free_vcpus,
            refused: candidate.refused,
        })
        .collect();
    if cx.json {
        let events = there.events.iter().map(Event::from).collect();
        render::json(&Explanation { vm: Vm::from(&vm), candidates, events });
        return Ok(());
    }
    let why = vm
        .reason
        .as_ref()
        .map(|reason| reason.text.as_str())
        .unwrap_or("the leader has not planned yet");
    let place = vm.owner.as_deref().map(|owner| format!(" on {owner}")).unwrap_or_default();
    render::line(&format!("{} is {}{place}, and wanted {}: {why}", vm.name, vm.state, vm.desired));
    if !vm.may_run.is_empty() {
        render::line(&format!("It may be running on {}.", vm.may_run.join(", ")));
    }
    if let Some(failure) = &vm.failure {
        render::line(&format!("Its last failure: {failure}."));
    }
    let rows = candidates.iter().map(|candidate| {
        [
            candidate.node.clone(),
            candidate.priority.map(|priority| priority.to_string()).unwrap_or_default(),
            candidate.free_memory_mib.to_string(),
            candidate.free_vcpus.to_string(),
            candidate.refused.clone().unwrap_or_else(|| "can take it".into()),
        ]
    });
    render::line(&format!(
        "\n{}",
        table(["NODE", "PRIORITY", "FREE MiB", "FREE CPUS", "VERDICT"], rows)
    ));
    if !there.events.is_empty() {
        render::line("\nIts last events:");
    }
    for event in &there.events {
        render::line(&format!("{:>8}  {}  {}", event.revision, time(event.at_ms), event.text));
    }
    Ok(())
}
