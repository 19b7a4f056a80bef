//! What `clusvcadm` asks, carried out with Berth's operations.

use proto::v1;
use proto::v1::ask_service::Ask;
use proto::v1::submit_request::Operation;
use proto::v1::{
    AskEnable, AskFreeze, AskMigrate, AskRelocate, AskService, EnableVm, FreezeVm, MigrateVm,
    RelocateVm, StopVm,
};
use tonic::Response;

use super::clusvcadm::{Answer, Request, Verb, answer};
use super::{is_up, status};
use crate::client::Cluster;
use crate::exit::Failure;
use crate::wait::{wait, wait_service};

/// What stands beside a freeze or a lock that no reason was given for.
const WHY: &str = "asked by clusvcadm";

/// Where a group is to run.
pub(super) struct Place<'n> {
    pub(super) target: Option<&'n v1::Node>,
    pub(super) local: Option<&'n v1::Node>,
    pub(super) by_domain: bool,
}

impl Place<'_> {
    /// RGManager's daemon tries its own node first. Where that is none of the cluster's, the domain decides.
    fn of_start(&self, state: &str) -> Option<String> {
        let local = self.local.filter(|node| is_up(node) && !self.by_domain);
        let local = local.filter(|_| matches!(state, "stopped" | "disabled"));
        self.target.or(local).map(|node| node.name.clone())
    }

    /// A target that is offline: any other will do.
    fn of_move(&self) -> Option<String> {
        self.target.filter(|node| is_up(node)).map(|node| node.name.clone())
    }
}

type Refusal = (Answer, Option<String>);

fn refusal(verb: Verb, failure: &Failure, state: &str) -> Refusal {
    match answer(verb, failure, state) {
        // It is so already.
        Answer::Success => (Answer::Success, None),
        answer => (answer, Some(failure.message.clone())),
    }
}

/// To RGManager what migrates was `started` on its source.
fn runs_as_wanted(state: &str, desired: &str) -> bool {
    matches!(state, "started" | "migrating") && desired == "enabled"
}

/// Does it, and returns where the group runs then.
pub(super) async fn act(
    cluster: &Cluster,
    verb: Verb,
    group: &str,
    place: &Place<'_>,
) -> Result<Option<String>, Refusal> {
    match group.split_once(':') {
        Some(("vm", name)) => act_on_vm(cluster, verb, name, place).await,
        Some(("service", name)) => act_on_service(cluster, verb, name, place).await,
        _ => Err((Answer::NoService, None)),
    }
}

async fn act_on_vm(
    cluster: &Cluster,
    verb: Verb,
    name: &str,
    place: &Place<'_>,
) -> Result<Option<String>, Refusal> {
    let vm = cluster.vm(name, false).await.map_err(|failure| refusal(verb, &failure, ""))?;
    if verb == Verb::Enable && vm.frozen.is_none() && runs_as_wanted(&vm.state, &vm.desired) {
        return Err((Answer::Running, None));
    }
    let done = async {
        let operation = vm_operation(verb, name, &vm.state, place);
        let (request_id, _) = cluster.submit(operation).await?;
        match verb {
            Verb::Freeze | Verb::Unfreeze | Verb::Convalesce => Ok(vm.owner),
            _ => wait(cluster, &request_id, name, true).await.map(|vm| vm.owner),
        }
    };
    done.await.map_err(|failure| refusal(verb, &failure, &vm.state))
}

fn vm_operation(verb: Verb, name: &str, state: &str, place: &Place<'_>) -> Operation {
    let vm = name.to_owned();
    match verb {
        Verb::Enable => Operation::Enable(EnableVm { vm, on: place.of_start(state) }),
        Verb::Disable => Operation::Disable(vm),
        Verb::Stop => Operation::Stop(StopVm { vm, now: false }),
        Verb::Relocate => Operation::Relocate(RelocateVm { vm, to: place.of_move() }),
        Verb::Restart => Operation::Restart(vm),
        Verb::Migrate => {
            let to = place.target.map(|node| node.name.clone()).unwrap_or_default();
            Operation::Migrate(MigrateVm { vm, to, mode: None })
        }
        Verb::Freeze => Operation::Freeze(FreezeVm { vm, why: WHY.into(), for_ms: None }),
        Verb::Unfreeze => Operation::Unfreeze(vm),
        Verb::Convalesce => Operation::Convalesce(vm),
    }
}

async fn service(cluster: &Cluster, name: &str) -> Result<v1::Service, Failure> {
    let message = v1::GetServiceRequest { service: name.to_owned(), stale: false };
    cluster
        .ask(|mut client| {
            let message = message.clone();
            async move { client.get_service(message).await.map(Response::into_inner) }
        })
        .await
}

async fn act_on_service(
    cluster: &Cluster,
    verb: Verb,
    name: &str,
    place: &Place<'_>,
) -> Result<Option<String>, Refusal> {
    let known = service(cluster, name).await.map_err(|failure| refusal(verb, &failure, ""))?;
    if verb == Verb::Enable
        && known.frozen.is_none()
        && runs_as_wanted(&known.state, &known.desired)
    {
        return Err((Answer::Running, None));
    }
    let ask = service_ask(verb, &known.state, place);
    let done = async {
        let ask = AskService { service: name.to_owned(), ask: Some(ask) };
        let (request_id, _) = cluster.submit(Operation::AskService(ask)).await?;
        match verb {
            Verb::Freeze | Verb::Unfreeze | Verb::Convalesce => Ok(known.owner),
            _ => wait_service(cluster, &request_id, name, true).await.map(|it| it.owner),
        }
    };
    done.await.map_err(|failure| refusal(verb, &failure, &known.state))
}

fn service_ask(verb: Verb, state: &str, place: &Place<'_>) -> Ask {
    match verb {
        Verb::Enable => Ask::Enable(AskEnable { on: place.of_start(state) }),
        Verb::Disable => Ask::Disable(true),
        Verb::Stop => Ask::Stop(true),
        Verb::Relocate => Ask::Relocate(AskRelocate { to: place.of_move() }),
        Verb::Restart => Ask::Restart(true),
        Verb::Migrate => {
            let to = place.target.map(|node| node.name.clone()).unwrap_or_default();
            Ask::Migrate(AskMigrate { to, mode: None })
        }
        Verb::Freeze => Ask::Freeze(AskFreeze { why: WHY.into(), for_ms: None }),
        Verb::Unfreeze => Ask::Unfreeze(true),
        Verb::Convalesce => Ask::Convalesce(true),
    }
}

/// The lock of all starts: what is said of it, and the exit code.
pub(super) async fn lock(cluster: &Cluster, request: &Request) -> (String, u8) {
    let say = |text: &str, code| (format!("{text}\n"), code);
    if *request == Request::ShowLock {
        return match status(cluster, false).await {
            Ok(status) if status.lock.is_some() => say("Resource groups locked", 0),
            Ok(_) => say("Resource groups unlocked", 0),
            Err(_) => say("Query operation failed", 1),
        };
    }
    let (operation, is_so_already, done, failed) = match request {
        Request::Lock => (
            Operation::Lock(WHY.into()),
            "locked",
            "Resource groups locked",
            "Lock operation failed",
        ),
        _ => (
            Operation::Unlock(true),
            "not-locked",
            "Resource groups unlocked",
            "Unlock operation failed",
        ),
    };
    if !nix::unistd::geteuid().is_root() {
        return say(failed, 1);
    }
    match cluster.submit(operation).await {
        Ok(_) => say(done, 0),
        Err(failure) if failure.rejection.as_deref() == Some(is_so_already) => say(done, 0),
        Err(_) => say(failed, 1),
    }
}
