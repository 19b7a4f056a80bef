//! Freeze and unfreeze, lock and unlock, convalesce.

use std::time::Duration;

use proto::v1::FreezeVm;
use proto::v1::submit_request::Operation;

use crate::cmd::Context;
use crate::exit::Failure;
use crate::render;

pub(super) async fn freeze(
    cx: &Context,
    vm: String,
    why: String,
    span: Option<Duration>,
) -> Result<(), Failure> {
    let for_ms = span.map(|span| span.as_millis() as u64);
    let asked = FreezeVm { vm: vm.clone(), why, for_ms };
    cx.cluster.submit(Operation::Freeze(asked)).await?;
    let end = span.map(|span| format!(" for {} s", span.as_secs())).unwrap_or_default();
    say(cx, "vm", &vm, &format!("frozen{end}; nothing is done to it"));
    Ok(())
}

pub(super) async fn unfreeze(cx: &Context, vm: String) -> Result<(), Failure> {
    cx.cluster.submit(Operation::Unfreeze(vm.clone())).await?;
    say(cx, "vm", &vm, "unfrozen; its nodes are asked for it first");
    Ok(())
}

pub(super) async fn lock(cx: &Context, why: String) -> Result<(), Failure> {
    cx.cluster.submit(Operation::Lock(why)).await?;
    say(cx, "cluster", "cluster", "locked; nothing is started");
    Ok(())
}

pub(super) async fn unlock(cx: &Context) -> Result<(), Failure> {
    cx.cluster.submit(Operation::Unlock(true)).await?;
    say(cx, "cluster", "cluster", "unlocked");
    Ok(())
}

pub(super) async fn convalesce(cx: &Context, vm: String) -> Result<(), Failure> {
    cx.cluster.submit(Operation::Convalesce(vm.clone())).await?;
    say(cx, "vm", &vm, "what counted against it is forgotten");
    Ok(())
}

fn say(cx: &Context, key: &str, name: &str, done: &str) {
    if cx.json {
        render::json(&serde_json::json!({ key: name, "done": done }));
    } else {
        render::line(&format!("{name}: {done}"));
    }
}
