//! Waiting for what was asked: a pure verdict on each view of the VM, and the stream around it.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use proto::v1;
use tokio::time::{Instant, timeout_at};
use tonic::{Response, Streaming};

use crate::client::{Cluster, worth_another};
use crate::exit::{Failure, Kind};

/// How long the leader must call it stuck before the wait is given up: it may only be about to plan.
const STUCK: Duration = Duration::from_secs(2);
/// How often a line is printed where there is no terminal to draw on.
const PLAIN_PERIOD: Duration = Duration::from_secs(2);

/// What a view of the VM means for the request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Not yet.
    Pending,
    /// Not yet, and the leader does not see how.
    Stuck {
        /// The word of the leader's reason.
        code: String,
        /// The same for people.
        why: String,
    },
    /// It holds.
    Done,
    /// It was carried out and failed.
    Failed(String),
    /// Another operation took its place.
    Superseded(String),
}

/// The verdict on one view.
pub fn judge(request_id: &str, vm: &v1::Vm) -> Verdict {
    let Some(operation) =
        vm.operation.as_ref().filter(|operation| operation.request_id == request_id)
    else {
        let other =
            vm.operation.as_ref().map_or("something else", |operation| operation.verb.as_str());
        return Verdict::Superseded(format!("{other} of {} took its place", vm.name));
    };
    match operation.phase.as_str() {
        "done" => Verdict::Done,
        "failed" => Verdict::Failed(operation.failure.clone().unwrap_or_default()),
        _ => match &vm.reason {
            Some(reason) if reason.stuck => {
                Verdict::Stuck { code: reason.code.clone(), why: reason.text.clone() }
            }
            _ => Verdict::Pending,
        },
    }
}

/// Follows the VM until the request has come to something. Returns the last view.
pub async fn wait(
    cluster: &Cluster,
    request_id: &str,
    name: &str,
    quiet: bool,
) -> Result<v1::Vm, Failure> {
    let open = async || {
        let message = v1::GetVmRequest { vm: name.to_owned(), with_xml: false, stale: false };
        cluster
            .ask(|mut client| {
                let message = message.clone();
                async move { client.watch_vm(message).await.map(Response::into_inner) }
            })
            .await
    };
    follow(cluster, request_id, quiet, open, v1::Vm::clone).await
}

/// The same of a service.
pub async fn wait_service(
    cluster: &Cluster,
    request_id: &str,
    name: &str,
    quiet: bool,
) -> Result<v1::Service, Failure> {
    let open = async || {
        let message = v1::GetServiceRequest { service: name.to_owned(), stale: false };
        cluster
            .ask(|mut client| {
                let message = message.clone();
                async move { client.watch_service(message).await.map(Response::into_inner) }
            })
            .await
    };
    let look = |service: &v1::Service| v1::Vm {
        name: format!("service:{name}"),
        state: service.state.clone(),
        operation: service.operation.clone(),
        reason: service.reason.clone(),
        ..v1::Vm::default()
    };
    follow(cluster, request_id, quiet, open, look).await
}

/// `open` begins a stream of views, `look` says what is judged of one.
async fn follow<T>(
    cluster: &Cluster,
    request_id: &str,
    quiet: bool,
    open: impl AsyncFn() -> Result<Streaming<T>, Failure>,
    look: impl Fn(&T) -> v1::Vm,
) -> Result<T, Failure> {
    let begun = Instant::now();
    let mut display = Display::new(quiet);
    let mut stuck: Option<(Instant, String, String)> = None;
    loop {
        let mut stream = open().await?;
        loop {
            let wake = stuck
                .as_ref()
                .map_or(cluster.deadline(), |(since, ..)| cluster.deadline().min(*since + STUCK));
            let next = match timeout_at(wake, stream.message()).await {
                Ok(next) => next,
                Err(_) => {
                    display.clear();
                    return Err(match stuck {
                        Some((since, code, why)) if since.elapsed() >= STUCK => Failure {
                            reason: Some(code),
                            ..Failure::new(
                                Kind::CannotNow,
                                format!("accepted, but it cannot be carried out now: {why}"),
                            )
                        },
                        _ => Failure::new(
                            Kind::Deadline,
                            format!("not done after {} s; it goes on", begun.elapsed().as_secs()),
                        ),
                    });
                }
            };
            let seen = match next {
                Ok(Some(seen)) => seen,
                // The leader changed: the next one knows all that was acknowledged.
                Ok(None) => break,
                Err(status) if worth_another(&status) => break,
                Err(status) => return Err(status.into()),
            };
            let vm = look(&seen);
            display.show(&vm);
            match judge(request_id, &vm) {
                Verdict::Pending => stuck = None,
                Verdict::Stuck { code, why } => {
                    stuck = stuck.or_else(|| Some((Instant::now(), code, why)));
                }
                Verdict::Done => {
                    display.clear();
                    return Ok(seen);
                }
                Verdict::Failed(why) => {
                    display.clear();
                    return Err(Failure::new(Kind::OperationFailed, why));
                }
                Verdict::Superseded(why) => {
                    display.clear();
                    return Err(Failure::new(Kind::Superseded, why));
                }
            }
        }
    }
}

/// A bar for a migration, a spinner for the rest; lines now and then where there is no terminal.
struct Display {
    bar: Option<ProgressBar>,
    plain: bool,
    printed: Option<(Instant, String)>,
}

impl Display {
    fn new(quiet: bool) -> Self {
        let bar =
            (!quiet).then(|| ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr()));
        let plain = bar.as_ref().is_some_and(ProgressBar::is_hidden);
        Self { bar, plain, printed: None }
    }

    fn show(&mut self, vm: &v1::Vm) {
        let Some(bar) = &self.bar else { return };
        let why = vm.reason.as_ref().map(|reason| reason.text.as_str()).unwrap_or_default();
        let migration = vm.last_migration.as_ref().filter(|it| it.open);
        let phase = migration.map_or("copying", |it| it.phase.as_str());
        let line = match &vm.progress {
            Some(progress) if progress.total_bytes > 0 => {
                let copied = progress.total_bytes.saturating_sub(progress.remaining_bytes);
                bar.set_style(bar_style());
                bar.set_length(progress.total_bytes);
                bar.set_position(copied);
                bar.set_message(format!("{}, {phase}", vm.name));
                let percent = copied * 100 / progress.total_bytes;
                let mib = progress.total_bytes >> 20;
                format!("{}: {phase}, {percent} % of {mib} MiB copied", vm.name)
            }
            _ => {
                bar.set_style(ProgressStyle::default_spinner());
                bar.enable_steady_tick(Duration::from_millis(100));
                bar.set_message(format!("{} is {}: {why}", vm.name, vm.state));
                format!("{} is {}: {why}", vm.name, vm.state)
            }
        };
        if !self.plain {
            return;
        }
        let due = self
            .printed
            .as_ref()
            .is_none_or(|(at, last)| *last != line && at.elapsed() >= PLAIN_PERIOD);
        if due {
            eprintln!("{line}");
            self.printed = Some((Instant::now(), line));
        }
    }

    fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn bar_style() -> ProgressStyle {
    let template =
        "{msg} [{bar:40}] {percent:>3} % {bytes}/{total_bytes}, {bytes_per_sec}, {eta} left";
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vm(request_id: &str, phase: &str, stuck: Option<bool>) -> v1::Vm {
        v1::Vm {
            name: "v".into(),
            operation: Some(v1::Operation {
                request_id: request_id.into(),
                verb: "enable".into(),
                phase: phase.into(),
                failure: Some("no".into()),
                at_ms: 0,
            }),
            reason: stuck.map(|stuck| v1::Reason { code: "c".into(), text: "why".into(), stuck }),
            ..v1::Vm::default()
        }
    }

    #[test]
    fn each_view_has_its_verdict() {
        assert_eq!(judge("a", &vm("a", "pending", None)), Verdict::Pending);
        assert_eq!(judge("a", &vm("a", "halfway", Some(false))), Verdict::Pending);
        assert_eq!(
            judge("a", &vm("a", "pending", Some(true))),
            Verdict::Stuck { code: "c".into(), why: "why".into() }
        );
        assert_eq!(judge("a", &vm("a", "done", Some(true))), Verdict::Done);
        assert_eq!(judge("a", &vm("a", "failed", None)), Verdict::Failed("no".into()));
        assert_eq!(
            judge("a", &vm("b", "done", None)),
            Verdict::Superseded("enable of v took its place".into())
        );
    }
}
