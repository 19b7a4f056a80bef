//! Carrying out one order.

use std::time::Duration;

use model::vm::Presence;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use tracing::{info, warn};

use super::{Control, Tools, jobs};
use crate::hypervisor::mark::{Mark, insert};
use crate::hypervisor::{HypervisorError, JobStats};
use crate::vm::order::{Kind, Order};

const CALL_LIMIT: Duration = Duration::from_secs(10);
/// A guest that boots misses the button: it is pressed again this often.
const PRESS_AGAIN: Duration = Duration::from_secs(5);
/// libvirt itself sends SIGTERM, and SIGKILL ten seconds later.
const DESTROY_LIMIT: Duration = Duration::from_secs(15);
/// How long after SIGKILL a process may still be there: the kernel has to write back what it holds.
const KILL_LIMIT: Duration = Duration::from_secs(10);
/// Events may be lost with a connection; between them it is looked at this often.
const LOOK_PERIOD: Duration = Duration::from_secs(1);
const SAMPLE_PERIOD: Duration = Duration::from_millis(200);

type Outcome = Result<(), String>;

pub(super) async fn carry_out(
    tools: Tools,
    order: Order,
    mut control: watch::Receiver<Control>,
) -> Outcome {
    let worker = Worker { tools, order };
    match &worker.order.kind {
        Kind::Start { xml } => worker.start(xml).await,
        Kind::Stop { graceful_ms } => worker.stop(*graceful_ms, &mut control).await,
        Kind::Migrate { uri, live, cancelled } => {
            worker.migrate(uri, *live, *cancelled, &mut control).await
        }
        Kind::Adopt => worker.mark().await,
        Kind::Probe => Ok(()),
    }
}

struct Worker {
    tools: Tools,
    order: Order,
}

fn text(error: HypervisorError) -> String {
    error.to_string()
}

impl Worker {
    async fn presence(&self) -> Result<Option<Presence>, HypervisorError> {
        let uuid = self.order.uuid;
        let seen = self
            .tools
            .hypervisor
            .call("look at a domain", CALL_LIMIT, move |it| it.look(uuid))
            .await?;
        Ok(seen.and_then(|seen| seen.presence))
    }

    fn wanted_mark(&self) -> Mark {
        Mark { cluster: self.order.cluster, generation: self.order.generation }
    }

    async fn mark(&self) -> Outcome {
        let (uuid, mark) = (self.order.uuid, self.wanted_mark());
        let marked = self
            .tools
            .hypervisor
            .call("mark a domain", CALL_LIMIT, move |it| it.mark(uuid, &mark))
            .await;
        marked.map_err(text)
    }

    async fn start(&self, xml: &str) -> Outcome {
        match self.presence().await.map_err(text)? {
            // Begun by an agent before this one, or by somebody else: it runs, and that was asked.
            Some(Presence::Running | Presence::Paused | Presence::ShuttingDown) => {
                return self.mark().await;
            }
            Some(presence) => {
                return Err(format!("a domain with its UUID is {} here", presence.as_str()));
            }
            None => {}
        }
        let xml = insert(xml, &self.wanted_mark()).map_err(|error| error.to_string())?;
        let created = self.tools.hypervisor.call_to_its_end(move |it| it.create(&xml)).await;
        created.map_err(text)
    }

    async fn stop(
        &self,
        graceful_ms: Option<u64>,
        control: &mut watch::Receiver<Control>,
    ) -> Outcome {
        if let Some(limit) = graceful_ms
            && self.shut_down(Duration::from_millis(limit), control).await
        {
            return Ok(());
        }
        self.destroy(control).await
    }

    /// Presses the power button until the guest is gone; false when it is not gone within the limit.
    async fn shut_down(&self, limit: Duration, control: &mut watch::Receiver<Control>) -> bool {
        let end = Instant::now() + limit;
        while Instant::now() < end && !control.borrow().cut_short {
            let uuid = self.order.uuid;
            let pressed = self
                .tools
                .hypervisor
                .call("shut a guest down", CALL_LIMIT, move |it| it.shutdown(uuid))
                .await;
            if let Err(error) = pressed {
                info!(vm = self.order.vm, %error, "the guest could not be asked to shut down");
            }
            if self.gone_by(end.min(Instant::now() + PRESS_AGAIN), control, true).await {
                return true;
            }
        }
        false
    }

    /// Waits until the domain is gone, by its events, looking now and then; false at the deadline.
    async fn gone_by(
        &self,
        deadline: Instant,
        control: &mut watch::Receiver<Control>,
        may_cut: bool,
    ) -> bool {
        loop {
            control.mark_unchanged();
            if matches!(self.presence().await, Ok(None)) {
                return true;
            }
            if Instant::now() >= deadline || (may_cut && control.borrow().cut_short) {
                return false;
            }
            let next_look = deadline.min(Instant::now() + LOOK_PERIOD);
            // An event or the next look, whichever is first; a sender that is gone leaves the looks.
            let _ = timeout_at(next_look, control.changed()).await;
        }
    }

    async fn destroy(&self, control: &mut watch::Receiver<Control>) -> Outcome {
        let uuid = self.order.uuid;
        let destroyed = self
            .tools
            .hypervisor
            .call("destroy a domain", DESTROY_LIMIT, move |it| it.destroy(uuid))
            .await;
        match &destroyed {
            Ok(()) | Err(HypervisorError::NoDomain) => {}
            Err(error) => {
                warn!(vm = self.order.vm, %error, "libvirt does not destroy it: killing its QEMU");
                self.kill_qemu().await?;
            }
        }
        if self.gone_by(Instant::now() + KILL_LIMIT, control, false).await {
            return Ok(());
        }
        Err(match destroyed {
            Err(error) => text(error),
            Ok(()) => "its QEMU is still there after it was destroyed".into(),
        })
    }

    async fn kill_qemu(&self) -> Outcome {
        let uuid = self.order.uuid;
        let process = self
            .tools
            .hypervisor
            .call("find a process", CALL_LIMIT, move |it| it.process(uuid))
            .await;
        match process.map_err(text)? {
            None => Ok(()),
            Some(process) => {
                kill(Pid::from_raw(process), Signal::SIGKILL).map_err(|error| error.to_string())
            }
        }
    }

    async fn migrate(
        &self,
        uri: &str,
        live: bool,
        cancelled: bool,
        control: &mut watch::Receiver<Control>,
    ) -> Outcome {
        let uuid = self.order.uuid;
        if self.presence().await.map_err(text)?.is_none() {
            // Begun by an agent before this one, and over: where it is now, the target says.
            return Ok(());
        }
        if cancelled {
            return Err("cancelled before it began".into());
        }
        let uri = uri.to_owned();
        let migration =
            self.tools.hypervisor.call_to_its_end(move |it| it.migrate(uuid, &uri, live));
        tokio::pin!(migration);
        let mut samples = tokio::time::interval(SAMPLE_PERIOD);
        samples.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut called_off = false;
        let result = loop {
            tokio::select! {
                result = &mut migration => break result,
                _ = samples.tick() => self.sample().await,
                changed = control.changed(), if !called_off => {
                    if changed.is_err() || control.borrow().cut_short {
                        called_off = true;
                        self.abort().await;
                    }
                }
            }
        };
        jobs(&self.tools.jobs).remove(&uuid);
        match result {
            Ok(()) => Ok(()),
            Err(error) if called_off => Err(format!("cancelled: {error}")),
            Err(error) => Err(text(error)),
        }
    }

    async fn abort(&self) {
        let uuid = self.order.uuid;
        let aborted = self
            .tools
            .hypervisor
            .call("abort a migration", CALL_LIMIT, move |it| it.abort_job(uuid))
            .await;
        if let Err(error) = aborted {
            info!(vm = self.order.vm, %error, "the migration could not be called off; its end decides");
        }
    }

    async fn sample(&self) {
        let uuid = self.order.uuid;
        let stats: Result<Option<JobStats>, _> =
            self.tools.hypervisor.call("ask for a job", CALL_LIMIT, move |it| it.job(uuid)).await;
        // The domain may have left between two samples.
        if let Ok(Some(stats)) = stats {
            jobs(&self.tools.jobs).insert(uuid, (self.order.id, stats));
        }
    }
}
