//! Scripts of services on fake hosts: their processes, what they take and what they come to.
//!
//! ```text
//!  the agent's call ──▶ a run of its own process group ──▶ its end ──▶ the agent, if that is the one that began it
//!                         a start is up from its first moment; a stop is down at its end
//!  the agent ends: the run goes on ──▶ the next agent ends it before it says anything of the service
//! ```
//! A script is known by its program: a service that was forgotten and added again has another id, and the same daemon.

use agent::script::call::{Action, Outcome, ScriptCall};
use agent::script::orphan::Orphan;
use uuid::Uuid;

use super::acts::Acts;
use super::invariant::Observation;
use super::world::{Event, World};

/// A run of a script under way.
#[derive(Debug, Clone)]
pub struct ScriptRun {
    /// Counts all runs of the world.
    number: u64,
    /// Which agent of the host began it.
    incarnation: u64,
    /// What.
    call: ScriptCall,
}

/// OCF: not running.
const NOT_RUNNING: i32 = 7;
/// A start or a stop, in milliseconds.
const ACTS_MS: (u64, u64) = (20, 800);
/// A look.
const LOOKS_MS: (u64, u64) = (2, 60);
/// From a signal to the end of a process group: SIGKILL comes two seconds after SIGTERM.
const ENDS_MS: (u64, u64) = (2, 2_050);

impl World {
    /// The agent has a script run.
    pub(super) fn begin_script(&mut self, host: usize, incarnation: u64, call: ScriptCall) {
        self.trace.detail(self.now, "script", || {
            let ScriptCall { id, service_name, member, action, .. } = &call;
            format!("{} #{id} {service_name}/{member}: {action:?}", self.hosts[host].name)
        });
        self.observe(&Observation::ScriptRuns { host, call: &call });
        let program = call.script.program.what().to_owned();
        let usual = match call.action {
            Action::Status { .. } => self.between(LOOKS_MS),
            Action::Start | Action::Stop => self.between(ACTS_MS),
        };
        let hangs = !self.calm && self.one_in(25);
        let outcome = match (hangs, call.action) {
            (true, _) => Outcome::TimedOut { output: String::new() },
            // How it is then, it says at its end.
            (false, Action::Status { .. }) => exited(0),
            (false, _) => exited(i32::from(!self.calm && self.one_in(12))),
        };
        let took = if hangs { call.timeout_ms } else { usual };
        let at = &mut self.hosts[host];
        if call.action == Action::Start {
            at.scripts.insert(program);
        }
        self.script_runs += 1;
        let (boot, number) = (at.boot, self.script_runs);
        at.runs.push(ScriptRun { number, incarnation, call });
        self.after(took, Event::ScriptEnds { host, boot, number, outcome });
    }

    /// The agent has runs ended.
    pub(super) fn kill_scripts(&mut self, host: usize, incarnation: u64, calls: &[u64]) {
        let meant = |it: &&ScriptRun| it.incarnation == incarnation && calls.contains(&it.call.id);
        let numbers: Vec<u64> =
            self.hosts[host].runs.iter().filter(meant).map(|it| it.number).collect();
        let boot = self.hosts[host].boot;
        for number in numbers {
            let took = self.between(ENDS_MS);
            let outcome = Outcome::Cancelled;
            self.after(took, Event::ScriptEnds { host, boot, number, outcome });
        }
    }

    /// A run is over, by itself or because it was ended; what it has done is not known of one that did not say so.
    pub(super) fn script_ends(&mut self, host: usize, boot: u64, number: u64, outcome: Outcome) {
        let at = &self.hosts[host];
        let place = at.runs.iter().position(|run| run.number == number);
        let Some(place) = place.filter(|_| at.on && at.boot == boot) else { return };
        let ScriptRun { incarnation, call, .. } = self.hosts[host].runs.remove(place);
        let program = call.script.program.what();
        let done = outcome == exited(0);
        // Half of those that were broken off have done it all the same.
        let mut works = done || self.rng.bool();
        // Some say that they are stopped and are not: for a while, or until they are asked again.
        if done && call.action == Action::Stop && !self.calm && self.options.acts == Acts::All {
            works &= self.acts.u32(0..12) > 0;
        }
        match call.action {
            Action::Start if !works => drop(self.hosts[host].scripts.remove(program)),
            Action::Stop if works => drop(self.hosts[host].scripts.remove(program)),
            _ => {}
        }
        let outcome = match (call.action, self.hosts[host].scripts.contains(program)) {
            (Action::Status { .. }, false) if done => exited(NOT_RUNNING),
            _ => outcome,
        };
        self.trace.detail(self.now, "script-ended", || {
            format!("{} #{}: {outcome:?}", self.hosts[host].name, call.id)
        });
        self.after(
            0,
            Event::ScriptAnswer { host, incarnation, service: call.service, id: call.id, outcome },
        );
    }

    pub(super) fn script_answer(
        &mut self,
        host: usize,
        incarnation: u64,
        (service, id): (Uuid, u64),
        outcome: &Outcome,
    ) {
        if self.agent(host, incarnation).is_some() {
            self.with_core(host, |core, now| core.script_ended(service, id, outcome, now));
        }
    }

    /// What agents before this one left under way on this boot is ended before anything else is done with its service.
    pub(super) fn end_orphans(&mut self, host: usize) {
        let at = &self.hosts[host];
        let (boot, incarnation) = (at.boot, at.incarnation);
        let runs: Vec<ScriptRun> = at.runs.clone();
        if runs.is_empty() {
            return;
        }
        let told = |run: &ScriptRun| {
            Orphan::told(run.call.service, &run.call.member, run.call.action == Action::Start)
        };
        let orphans: Vec<Orphan> = runs.iter().map(told).collect();
        if let Some(agent) = &mut self.hosts[host].agent {
            agent.core.wait_for(&orphans);
        }
        for ScriptRun { number, call, .. } in runs {
            let took = self.between(ENDS_MS);
            let (outcome, service) = (Outcome::Cancelled, call.service);
            self.after(took, Event::ScriptEnds { host, boot, number, outcome });
            self.after(took + 20, Event::OrphanGone { host, incarnation, service });
        }
    }

    pub(super) fn orphan_gone(&mut self, host: usize, incarnation: u64, service: Uuid) {
        if self.agent(host, incarnation).is_some() {
            self.with_core(host, |core, now| core.orphan_gone(service, now));
        }
    }

    /// A daemon dies.
    pub(super) fn script_dies(&mut self, host: usize) {
        let up: Vec<String> = self.hosts[host].scripts.iter().cloned().collect();
        if let Some(program) = self.rng.choice(up) {
            self.hosts[host].scripts.remove(&program);
        }
    }
}

fn exited(code: i32) -> Outcome {
    Outcome::Exited { code, output: String::new() }
}
