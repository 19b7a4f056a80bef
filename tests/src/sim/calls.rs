//! Calls of agents to libvirt: how long they take, and what comes back.

use agent::hypervisor::call::{Answer, Call};
use agent::hypervisor::{HypervisorError, JobStats};
use uuid::Uuid;

use super::invariant::Observation;
use super::world::{Event, World};

fn short(call: &Call) -> String {
    match call {
        Call::Create { .. } => "create".into(),
        call => format!("{call:?}"),
    }
}

impl World {
    /// What the core's last steps led to.
    pub(super) fn carry_out(&mut self, number: usize) {
        let incarnation = self.hosts[number].incarnation;
        let Some(agent) = &mut self.hosts[number].agent else { return };
        let effects = agent.core.take_effects();
        let reports = !effects.reports.is_empty();
        let (scripts, kills) = (effects.scripts, effects.kills);
        agent.queue.extend(effects.reports);
        let idle = agent.unanswered.is_none();
        for call in effects.calls {
            self.begin_call(number, incarnation, (call.uuid, call.id, call.call));
        }
        for call in scripts {
            self.begin_script(number, incarnation, call);
        }
        self.kill_scripts(number, incarnation, &kills);
        if reports && idle {
            self.send_reports(number, incarnation);
        }
    }

    fn begin_call(&mut self, number: usize, incarnation: u64, (uuid, id, call): (Uuid, u64, Call)) {
        let place = &self.hosts[number].name;
        self.trace.detail(self.now, "call", || format!("{place} #{id} {uuid}: {}", short(&call)));
        self.observe(&Observation::Call { host: number, uuid, call: &call });
        if let Some(limit) = call.limit() {
            let limit = limit.as_millis() as u64;
            self.after(limit, Event::CallLate(number, incarnation, uuid, id, call.clone()));
        }
        let boot = self.hosts[number].boot;
        let lost = {
            let mut machine = self.hosts[number].hypervisor.machine();
            let lost = matches!(call, Call::Create { .. }) && machine.failing.lost_starts > 0;
            machine.failing.lost_starts -= u32::from(lost);
            lost
        };
        let took = match &call {
            Call::Create { .. } if lost => {
                // The connection breaks, and libvirt goes on with what it was asked.
                let gone = HypervisorError::Disconnected("the connection broke".into());
                self.answer_call(number, incarnation, uuid, id, Err(gone));
                self.rng.u64(50..4_000)
            }
            Call::Create { .. } => {
                if let Some(name) = self.vm_name(uuid) {
                    let host = self.hosts[number].name.clone();
                    self.trace.note(self.now, "start", &[&name, &host]);
                }
                self.between(self.pace.start)
            }
            Call::Migrate(migration) => {
                let to =
                    migration.uri.strip_prefix("sim://").and_then(|number| number.parse().ok());
                let asked = Some((number, boot, incarnation, uuid, id));
                return self.begin_migration(uuid, number, to.unwrap_or(usize::MAX), asked);
            }
            _ => self.between(self.pace.call),
        };
        // To kill a process takes no libvirt.
        let slow = self.hosts[number].slow_until > self.now && call != Call::Kill;
        let took = if slow { took + self.rng.u64(0..8_000) } else { took };
        self.after(took, Event::CallEnds { host: number, boot, incarnation, uuid, id, call });
    }

    pub(super) fn call_ends(
        &mut self,
        number: usize,
        boot: u64,
        incarnation: u64,
        (uuid, id, call): (Uuid, u64, Call),
    ) {
        if !self.hosts[number].on || self.hosts[number].boot != boot {
            return;
        }
        let answer = match &call {
            Call::AbortJob => self.abort_migration(uuid, number),
            Call::Job => Ok(Answer::Job(self.migrates(uuid, number).then(JobStats::default))),
            call => call.make(uuid, &self.hosts[number].hypervisor),
        };
        if matches!(call, Call::Create { .. })
            && answer.is_err()
            && let Some(name) = self.vm_name(uuid)
        {
            let host = self.hosts[number].name.clone();
            self.trace.note(self.now, "start-failed", &[&name, &host]);
        }
        self.observe(&Observation::Called {
            host: number,
            uuid,
            call: &call,
            done: answer.is_ok(),
        });
        self.tell_events(number);
        self.answer_call(number, incarnation, uuid, id, answer);
    }

    /// A call comes back to the agent that made it, unless that is dead or stands still.
    pub(super) fn answer_call(
        &mut self,
        number: usize,
        incarnation: u64,
        uuid: Uuid,
        id: u64,
        answer: Result<Answer, HypervisorError>,
    ) {
        if self.agent(number, incarnation).is_some() {
            let place = &self.hosts[number].name;
            self.trace.detail(self.now, "answer", || format!("{place} #{id}: {answer:?}"));
            self.with_core(number, |core, now| core.answered(uuid, id, answer, now));
        }
    }

    pub(super) fn call_late(
        &mut self,
        number: usize,
        incarnation: u64,
        uuid: Uuid,
        id: u64,
        call: Call,
    ) {
        let limit = call.limit().unwrap_or_default();
        let late = HypervisorError::Timeout { what: call.as_str(), limit };
        self.answer_call(number, incarnation, uuid, id, Err(late));
    }

    /// A VM's name, by any control plane.
    pub fn vm_name(&self, uuid: Uuid) -> Option<String> {
        let known = self.planes.iter().rev().find_map(|plane| plane.state.vm_by_uuid.get(&uuid));
        known.map(ToString::to_string)
    }
}
