//! What people do with virsh, past the cluster; and guests that end by themselves.

use model::vm::{Presence, StopCause};
use uuid::Uuid;

use super::host::PausedBy;
use super::network::Place;
use super::world::World;

impl World {
    pub(super) fn guest_dies(&mut self, host: usize) {
        let vms: Vec<Uuid> =
            self.hosts[host].hypervisor.machine().domains.keys().copied().collect();
        let Some(uuid) = self.rng.choice(vms) else { return };
        let cause = match self.rng.u32(0..3) {
            0 => StopCause::GuestShutdown,
            1 => StopCause::Crashed,
            _ => StopCause::Failed,
        };
        self.hosts[host].hypervisor.machine().end(uuid, cause);
        self.tell_events(host);
    }

    /// Somebody uses virsh. One that starts a second copy is not among them: that is beyond any control plane.
    pub(super) fn outsider(&mut self, host: usize) {
        if !self.virsh_works(host) {
            return;
        }
        let vms: Vec<Uuid> =
            self.hosts[host].hypervisor.machine().domains.keys().copied().collect();
        let Some(uuid) = self.rng.choice(vms) else { return };
        let isolated = self.network.is_isolated(Place::Host(host));
        let truth = self.truth();
        let name = self.hosts[host].name.clone();
        let copies = self.copies(uuid).len();
        match self.rng.u32(0..8) {
            0 => {
                self.hosts[host].hypervisor.machine().end(uuid, StopCause::Destroyed);
            }
            6 => self.second_copy(uuid, host),
            7 if !self.migrates(uuid, host) => {
                // Away to a host that is none of the cluster's.
                let mut machine = self.hosts[host].hypervisor.machine();
                let runs = machine.domains.get(&uuid);
                if runs.is_some_and(|domain| domain.presence == Presence::Running) {
                    machine.end(uuid, StopCause::MigratedAway);
                }
            }
            1 => {
                let mut machine = self.hosts[host].hypervisor.machine();
                if let Some(domain) = machine.domains.get_mut(&uuid)
                    && domain.presence == Presence::Running
                {
                    domain.presence = Presence::Paused;
                    domain.paused_by = Some(PausedBy::Outsider);
                    machine.events.push((uuid, None));
                }
            }
            2 if !isolated => {
                let mut machine = self.hosts[host].hypervisor.machine();
                // Nobody lets a copy run that the cluster has started anew elsewhere.
                let owner = truth.vm_with_uuid(&uuid).and_then(|record| record.owner);
                let here = owner.is_some_and(|owner| truth.node_name(owner) == name);
                if let Some(domain) = machine.domains.get_mut(&uuid)
                    && domain.paused_by == Some(PausedBy::Outsider)
                    && here
                    && copies == 1
                {
                    domain.presence = Presence::Running;
                    domain.paused_by = None;
                    machine.events.push((uuid, None));
                }
            }
            _ => {
                let runs = self.hosts[host]
                    .hypervisor
                    .machine()
                    .domains
                    .get(&uuid)
                    .is_some_and(|domain| domain.presence == Presence::Running);
                let to = self.rng.usize(0..self.hosts.len());
                // A host that no control plane knows is outside the cluster, and what goes there is the operator's to find.
                let known = self.planes.iter().all(|plane| {
                    plane.state.nodes.values().any(|node| node.name.as_str() == self.hosts[to].name)
                });
                if to != host && runs && known {
                    self.begin_migration(uuid, host, to, None);
                }
            }
        }
        self.tell_events(host);
    }

    /// libvirtd of that host answers whoever asks.
    pub(super) fn virsh_works(&self, host: usize) -> bool {
        let host = &self.hosts[host];
        let stalled = host.libvirt_stalled_until > self.now || host.stands_still(self.now);
        host.on && !stalled && !host.hypervisor.machine().libvirt_down
    }

    /// Somebody defines a running VM elsewhere too, and leaves that copy paused.
    fn second_copy(&mut self, uuid: Uuid, host: usize) {
        let to = self.rng.usize(0..self.hosts.len());
        if to == host || !self.hosts[to].on || !self.hosts[to].guarded {
            return;
        }
        let copy = self.hosts[host].hypervisor.machine().domains.get(&uuid).cloned();
        let Some(mut domain) = copy.filter(|domain| domain.presence == Presence::Running) else {
            return;
        };
        domain.presence = Presence::Paused;
        domain.paused_by = Some(PausedBy::Outsider);
        domain.mark = None;
        domain.outside = true;
        {
            let mut machine = self.hosts[to].hypervisor.machine();
            if machine.libvirt_down || machine.domains.contains_key(&uuid) {
                return;
            }
            machine.domains.insert(uuid, domain);
            machine.events.push((uuid, None));
        }
        self.tell_events(to);
    }
}
