//! A host goes down in good order: its agent says so first, waits until nothing of the cluster's is there, and only then
//! does the power go.

use model::node::AfterShutdown;

use super::agent::Request;
use super::network::Place;
use super::world::{Event, World};

/// How often the agent asks whether it may go; the real one does so too.
const ASK_MS: u64 = 500;
/// A shutdown waits no longer than this for its guests: the host's own service manager would not either.
const PATIENCE_MS: u64 = 600_000;
/// Nor than this for a control plane that does not answer.
const UNHEARD_MS: u64 = 60_000;
/// From "off" to the next boot of a host that reboots, least and most.
const OFF_MS: (u64, u64) = (2_000, 5_000);

/// A shutdown under way.
#[derive(Debug, Clone, Copy)]
pub struct SimShutdown {
    /// What follows.
    pub then: AfterShutdown,
    since: u64,
    /// When the control plane last answered.
    heard: u64,
    /// It said that nothing of the cluster's may be running here.
    empty: bool,
}

impl World {
    /// The host is told to shut down, or to reboot.
    pub fn shut_down(&mut self, number: usize, then: AfterShutdown) {
        let now = self.now;
        let host = &mut self.hosts[number];
        if !host.on {
            return;
        }
        host.shutdown = Some(SimShutdown { then, since: now, heard: now, empty: false });
        let boot = host.boot;
        self.after(1, Event::Shutdown(number, boot));
    }

    pub(super) fn shutdown_step(&mut self, number: usize, boot: u64) {
        let now = self.now;
        let host = &self.hosts[number];
        let Some(shutdown) = host.shutdown.filter(|_| host.on && host.boot == boot) else { return };
        let guests = !host.hypervisor.machine().domains.is_empty();
        let unheard = now > shutdown.heard + UNHEARD_MS;
        if (shutdown.empty && !guests) || unheard || now > shutdown.since + PATIENCE_MS {
            return self.go_off(number, shutdown);
        }
        let (incarnation, then) = (host.incarnation, shutdown.then);
        let agent = host.agent.as_ref().and_then(|agent| Some((agent.session?, agent.server())));
        if let Some(((node, session), server)) = agent {
            let id = self.uuid();
            let request =
                Request::AnnounceShutdown { request: id, incarnation, node, session, then };
            let message =
                Event::ToReplica { replica: server, host: Some(number), request, forwarded: false };
            self.send(Place::Host(number), Place::Replica(server), message);
        }
        self.after(ASK_MS, Event::Shutdown(number, boot));
    }

    /// The control plane has noted it, and says whether anything may still be running there.
    pub(super) fn shutdown_noted(&mut self, number: usize, empty: bool) {
        let now = self.now;
        if let Some(shutdown) = &mut self.hosts[number].shutdown {
            shutdown.heard = now;
            shutdown.empty = empty;
        }
    }

    fn go_off(&mut self, number: usize, shutdown: SimShutdown) {
        self.power_off(number, "clean");
        self.hosts[number].shutdown = None;
        if shutdown.then == AfterShutdown::Reboot {
            self.hosts[number].shutdown = Some(shutdown);
            let delay = self.between(OFF_MS);
            self.after(delay, Event::Boot(number));
        }
    }

    /// Whether some host is on its way down, or to its next boot.
    pub fn shutting_down(&self) -> bool {
        self.hosts.iter().any(|host| host.shutdown.is_some())
    }
}
