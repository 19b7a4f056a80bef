//! What is asked of one VM, and waited for: enable, disable, stop, restart, relocate, migrate, cancel.

use std::time::Instant;

use proto::v1::submit_request::Operation;
use proto::v1::{EnableVm, MigrateVm, RelocateVm, ResolveVm, StopVm};

use crate::args::Command;
use crate::cmd::{Context, service};
use crate::exit::Failure;
use crate::render::{self, Vm};
use crate::wait::wait;

pub(super) async fn run(cx: &Context, command: Command) -> Result<(), Failure> {
    let (vm, operation) = match command {
        Command::Enable { vm, on } => (vm.clone(), Operation::Enable(EnableVm { vm, on })),
        Command::Disable { vm } => (vm.clone(), Operation::Disable(vm)),
        Command::Stop { vm, now } => (vm.clone(), Operation::Stop(StopVm { vm, now })),
        Command::Restart { vm } => (vm.clone(), Operation::Restart(vm)),
        Command::Relocate { vm, to } => (vm.clone(), Operation::Relocate(RelocateVm { vm, to })),
        Command::Migrate { vm, to, live, pause } => {
            let mode = match (live, pause) {
                (true, _) => Some("live".to_owned()),
                (_, true) => Some("pause".to_owned()),
                _ => None,
            };
            (vm.clone(), Operation::Migrate(MigrateVm { vm, to, mode }))
        }
        Command::Cancel { vm } => {
            cx.cluster.submit(Operation::Cancel(vm.clone())).await?;
            return say(cx, &vm, "cancelled").await;
        }
        Command::Ignore { vm } => {
            cx.cluster.submit(Operation::Ignore(vm.clone())).await?;
            return say(cx, &vm, "nothing is done about it any more").await;
        }
        Command::Resolve { vm, keep } => {
            let resolve = ResolveVm { vm: vm.clone(), keep: keep.clone() };
            cx.cluster.submit(Operation::Resolve(resolve)).await?;
            return say(cx, &vm, &format!("the copy on {keep} is kept")).await;
        }
        other => return Err(Failure::internal(format!("{other:?} is not an operation"))),
    };
    let wish = match &operation {
        Operation::Enable(enable) => enable.on.clone(),
        _ => None,
    };
    let begun = Instant::now();
    let (request_id, _) = cx.cluster.submit(operation).await?;
    if cx.no_wait {
        return say(cx, &vm, "accepted").await;
    }
    let last = wait(&cx.cluster, &request_id, &vm, cx.json).await?;
    if let Some(note) = service::elsewhere(&vm, wish, last.owner.as_deref()) {
        eprintln!("berthctl: {note}");
    }
    if cx.json {
        render::json(&Vm::from(&last));
    } else {
        let place = last.owner.as_deref().map(|owner| format!(" on {owner}")).unwrap_or_default();
        render::line(&format!(
            "{vm} is {}{place} ({:.1} s)",
            last.state,
            begun.elapsed().as_secs_f64()
        ));
    }
    Ok(())
}

async fn say(cx: &Context, vm: &str, word: &str) -> Result<(), Failure> {
    if cx.json {
        render::json(&Vm::from(&cx.cluster.vm(vm, false).await?));
    } else {
        render::line(&format!("{vm}: {word}"));
    }
    Ok(())
}
