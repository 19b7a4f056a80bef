//! What operators do seldom: settings that change under way, fences by hand, and what VMs and services may be told besides.

use model::ClusterState;
use model::command::Operation;
use model::dependency::{DependMode, Dependee, Dependency};
use model::fleet::{PlacementMode, ShutdownPolicy};
use model::node::AfterFence;
use model::recovery::{FailureTolerance, StartLimit};
use model::settings::Settings;
use model::vm::{AutomaticMoves, MigrationMode, OnConflict, OnIsolation, VmPolicy};

use super::operators::OperatorAct;
use super::world::{Event, World};

impl World {
    pub(super) fn act_rarely(&mut self) {
        if self.calm {
            return;
        }
        let pause = self.acts.u64(1_000..8_000);
        self.after(pause, Event::Operate(OperatorAct::Rare));
        let truth = self.truth();
        if let Some((word, operation)) = self.one_rare(&truth) {
            self.trace.detail(self.now, "act", || format!("{operation:?}"));
            *self.struck.entry(word).or_default() += 1;
            self.submit(operation);
        }
    }

    fn one_rare(&mut self, truth: &ClusterState) -> Option<(&'static str, Operation)> {
        Some(match self.acts.u32(0..12) {
            0..=1 => {
                let settings = self.some_settings(&truth.settings);
                // What contradicts itself is refused, and its own test's.
                settings.check().ok()?;
                ("asked-settings", Operation::ChangeSettings(settings))
            }
            2 => {
                let node = self.a_node();
                ("asked-fence", Operation::FenceNode { node, why: "a look".into() })
            }
            3 => {
                let lost = &truth.mass_loss.as_ref()?.nodes;
                let lost = lost.iter().filter_map(|id| truth.nodes.get(id));
                let nodes = lost.map(|node| node.name.clone()).collect();
                ("asked-release", Operation::ReleaseMassLoss { nodes })
            }
            4 => {
                let after = match self.acts.bool() {
                    true => AfterFence::PowerOn { per_hour: self.acts.u8(1..=60) },
                    false => AfterFence::StayOff,
                };
                let (node, after_fence) = (self.a_node(), Some(after));
                let vouched = None;
                ("asked-after-fence", Operation::SetNodePolicy { node, vouched, after_fence })
            }
            5..=8 => {
                let vm = self.a_vm();
                let mut spec = truth.vms.get(&vm)?.spec.clone();
                spec.policy = self.another_policy(truth, spec.policy);
                ("asked-of-policy", Operation::EditVm(Box::new(spec)))
            }
            _ => {
                let services: Vec<_> = truth.services.values().collect();
                let mut spec = self.acts.choice(services)?.spec.clone();
                spec.policy.autostart = self.acts.bool();
                spec.policy.exclusive = self.a_priority();
                spec.policy.start_priority = self.a_priority();
                spec.policy.depend = self.a_dependency(truth);
                ("asked-of-service-policy", Operation::EditService(Box::new(spec)))
            }
        })
    }

    fn some_settings(&mut self, present: &Settings) -> Settings {
        let acts = &mut self.acts;
        let mut settings = present.clone();
        match acts.u32(0..5) {
            0 => settings.lease_ttl_ms = acts.u64(30..=60) * 100,
            1 => {
                settings.suspect_after_ms = acts.u64(12..=25) * 100;
                settings.lost_after_ms = acts.u64(26..=50) * 100;
            }
            2 => {
                settings.isolation_hold_ms = acts.u64(3..=20) * 1_000;
                settings.fence_retry_ms = acts.u64(1..=4) * 1_000;
            }
            3 => {
                settings.mass_loss_percent = acts.u64(30..=100);
                settings.shutdown_policy = match acts.u32(0..4) {
                    0 => ShutdownPolicy::Freeze,
                    1 => ShutdownPolicy::Failover,
                    2 => ShutdownPolicy::Migrate,
                    _ => ShutdownPolicy::Conditional,
                };
            }
            _ => {
                settings.placement = match acts.u32(0..3) {
                    0 => PlacementMode::Count,
                    1 => PlacementMode::Dynamic,
                    _ => PlacementMode::Static,
                };
                settings.auto_rebalance = acts.bool();
                settings.rebalance_on_start = acts.bool();
                settings.rebalance_hold_ms = acts.u64(1..=10) * 1_000;
            }
        }
        settings
    }

    fn another_policy(&mut self, truth: &ClusterState, policy: VmPolicy) -> VmPolicy {
        let mut policy = policy;
        policy.on_isolation = match self.acts.u32(0..3) {
            0 => OnIsolation::Continue,
            1 => OnIsolation::Destroy,
            _ => OnIsolation::Suspend,
        };
        policy.on_conflict = match self.acts.bool() {
            true => OnConflict::KeepOwner,
            false => OnConflict::Wait,
        };
        policy.migration = match self.acts.bool() {
            true => MigrationMode::Live,
            false => MigrationMode::Pause,
        };
        policy.automatic_moves = match self.acts.u32(0..3) {
            0 => AutomaticMoves::Cold,
            1 => AutomaticMoves::Never,
            _ => AutomaticMoves::Live,
        };
        policy.autostart = self.acts.bool();
        policy.exclusive = self.a_priority();
        policy.start_priority = self.a_priority();
        policy.depend = self.a_dependency(truth);
        policy.start_limit = StartLimit {
            retries: self.acts.u32(0..2),
            relocations: self.acts.bool().then(|| self.acts.u32(0..3)),
        };
        policy.failure_tolerance =
            FailureTolerance { max_failures: self.acts.u32(0..3), expire_ms: 30_000 };
        policy
    }

    /// Mostly none.
    fn a_priority(&mut self) -> u32 {
        self.acts.u32(0..6).saturating_sub(3)
    }

    fn a_dependency(&mut self, truth: &ClusterState) -> Vec<Dependency> {
        let mode = if self.acts.bool() { DependMode::Hard } else { DependMode::Soft };
        let on = match self.acts.u32(0..4) {
            0 => Some(Dependee::Vm(self.a_vm())),
            1 => {
                let services: Vec<_> = truth.services.keys().cloned().collect();
                self.acts.choice(services).map(Dependee::Service)
            }
            _ => None,
        };
        on.map(|on| Dependency { on, mode }).into_iter().collect()
    }
}
