//! What is meant where a file says nothing: the model's defaults, in the wire's words.

use crate::convert::{service, view};
use crate::v1;

/// How a VM is treated that nothing is said of.
pub fn vm_policy() -> v1::VmPolicy {
    view::policy(&model::vm::VmPolicy::default())
}

/// How a service is treated that nothing is said of.
pub fn service_policy() -> v1::ServicePolicy {
    service::write_policy(&model::service::ServicePolicy::default())
}

/// How a VM is treated on its host where nothing is said of it.
pub fn vm_handling() -> v1::VmHandling {
    vm_policy().handling.unwrap_or_default()
}

/// How a VM is migrated where nothing is said of it.
pub fn migration_options() -> v1::MigrationOptions {
    vm_handling().migration.unwrap_or_default()
}

/// A failover domain of which nothing is said.
pub fn failover_domain() -> v1::FailoverDomain {
    v1::FailoverDomain { failback: Some(v1::Failback::default()), ..v1::FailoverDomain::default() }
}

/// What holds for the whole cluster where nothing is said.
pub fn settings() -> v1::Settings {
    view::settings(&model::settings::Settings::default())
}
