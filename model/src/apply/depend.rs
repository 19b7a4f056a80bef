//! Dependencies through VMs and services: what would wait for itself is refused where the circle is closed.

use crate::cluster::ClusterState;
use crate::command::Operation;
use crate::dependency::{self, Dependee, Dependency};
use crate::id::VmName;
use crate::rejection::Rejection;
use crate::service::ServiceSpec;
use crate::vm::VmSpec;

/// A definition as it would be, in place of the one that is known.
#[derive(Clone, Copy)]
pub(super) enum Definition<'d> {
    /// Of a VM.
    Vm(&'d VmSpec),
    /// Of a service.
    Service(&'d ServiceSpec),
}

impl Definition<'_> {
    fn dependee(&self) -> Dependee {
        match self {
            Self::Vm(spec) => Dependee::Vm(spec.name.clone()),
            Self::Service(spec) => Dependee::Service(spec.name.clone()),
        }
    }
}

impl ClusterState {
    /// What waits for itself would never start. What it depends on need not be known yet: that is not met until it is.
    pub(super) fn must_not_wait_for_itself(
        &self,
        definition: Definition<'_>,
    ) -> Result<(), Rejection> {
        let what = definition.dependee();
        let mut starts = vec![what.clone()];
        if let Definition::Service(spec) = definition {
            // A circle may be closed through a member, and not go through the whole of it.
            starts.extend(spec.vms().cloned().map(Dependee::Vm));
        }
        let way = starts.iter().find_map(|start| {
            let mut way = dependency::cycle(start, |on| self.waited_for(definition, on))?;
            way.push(start.clone());
            Some(way)
        });
        let Some(way) = way else { return Ok(()) };
        let way: Vec<_> = way.iter().map(ToString::to_string).collect();
        Err(Rejection::DependencyCycle { what: what.to_string(), way: way.join(" waits for ") })
    }

    /// The same of a change that was made together with others.
    pub(super) fn made_must_not_wait_for_itself(
        &self,
        change: &Operation,
    ) -> Result<(), Rejection> {
        if let Some(record) = change.defined_vm().and_then(|name| self.vms.get(name)) {
            self.must_not_wait_for_itself(Definition::Vm(&record.spec))?;
        }
        match change.service().and_then(|name| self.services.get(name)) {
            Some(record) => self.must_not_wait_for_itself(Definition::Service(&record.spec)),
            None => Ok(()),
        }
    }

    /// What has to be started before this one is. A service is up when its VMs are; a VM of a service waits for what that
    /// depends on, and for the VMs before it.
    fn waited_for(&self, definition: Definition<'_>, on: &Dependee) -> Vec<Dependee> {
        let names =
            |depend: &[Dependency]| depend.iter().map(|it| it.on.clone()).collect::<Vec<_>>();
        match (on, definition) {
            (Dependee::Service(name), Definition::Service(spec)) if *name == spec.name => {
                of_service(spec)
            }
            (Dependee::Service(name), _) => {
                self.services.get(name).map_or_else(Vec::new, |record| of_service(&record.spec))
            }
            (Dependee::Vm(name), _) => {
                let mut all = match (definition, self.vms.get(name)) {
                    (Definition::Vm(spec), _) if spec.name == *name => names(&spec.policy.depend),
                    (_, Some(record)) => names(&record.spec.policy.depend),
                    (_, None) => Vec::new(),
                };
                if let Some(before) = self.before_in_its_service(definition, name) {
                    all.extend(before);
                }
                all
            }
        }
    }

    fn before_in_its_service(
        &self,
        definition: Definition<'_>,
        vm: &VmName,
    ) -> Option<Vec<Dependee>> {
        let of = |spec: &ServiceSpec| {
            let first = spec.policy.depend.iter().map(|it| it.on.clone());
            let before = spec.vms().take_while(|it| *it != vm).cloned().map(Dependee::Vm);
            first.chain(before).collect()
        };
        match definition {
            Definition::Service(spec) if spec.vms().any(|it| it == vm) => return Some(of(spec)),
            Definition::Service(_) | Definition::Vm(_) => {}
        }
        let record = self.services.get(self.service_of.get(vm)?)?;
        // It is no member any more.
        let left = matches!(definition, Definition::Service(spec) if spec.name == record.spec.name);
        (!left).then(|| of(&record.spec))
    }
}

fn of_service(spec: &ServiceSpec) -> Vec<Dependee> {
    let depend = spec.policy.depend.iter().map(|it| it.on.clone());
    depend.chain(spec.vms().cloned().map(Dependee::Vm)).collect()
}
