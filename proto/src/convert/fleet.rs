//! All that operators define, as one message, and changes of it that are made together.

use model::ClusterState;
use model::command::Operation;
use model::node::{AfterFence, FenceDevice, NodeRecord};
use uuid::Uuid;

use crate::convert::{ConvertError, control, placing, service, view};
use crate::v1;

/// Options of fence agents that are no secret, in the standard's spellings; the value of any other is never shown.
const PLAIN_OPTIONS: [&str; 34] = [
    "auth",
    "cipher",
    "delay",
    "disable_timeout",
    "inet4_only",
    "inet6_only",
    "ip",
    "ipaddr",
    "ipport",
    "lab",
    "lanplus",
    "login",
    "login_timeout",
    "method",
    "name",
    "nodename",
    "plug",
    "port",
    "port_as_ip",
    "power_timeout",
    "power_wait",
    "privlvl",
    "redfish_uri",
    "retry_on",
    "secure",
    "shell_timeout",
    "ssh",
    "ssl",
    "ssl_insecure",
    "ssl_secure",
    "switch",
    "systems_uri",
    "timeout",
    "username",
];

/// Whether the value of a fence agent's option may be shown.
pub fn is_plain_option(key: &str) -> bool {
    PLAIN_OPTIONS.contains(&key)
}

/// All that operators define. Of fence devices the values that may be secret are left out.
pub fn fleet(state: &ClusterState) -> v1::Fleet {
    v1::Fleet {
        configuration: state.configuration,
        settings: Some(view::settings(&state.settings)),
        failover_domains: state
            .failover_domains
            .values()
            .map(|domain| view::failover_domain(domain))
            .collect(),
        nodes: state.nodes.values().map(|record| node(record)).collect(),
        vms: state
            .vms
            .values()
            .map(|record| v1::FleetVm {
                name: record.spec.name.to_string(),
                xml: record.spec.xml.to_string(),
                policy: Some(view::policy(&record.spec.policy)),
            })
            .collect(),
        placement_rules: state
            .placement_rules
            .values()
            .map(|rule| placing::write_placement_rule(rule))
            .collect(),
        services: state.services.values().map(|record| service::write_spec(&record.spec)).collect(),
    }
}

fn node(record: &NodeRecord) -> v1::FleetNode {
    v1::FleetNode {
        name: record.name.to_string(),
        fence_devices: record.fence_devices.iter().map(fence_device).collect(),
        vouched: record.vouched,
        after_fence: match record.after_fence {
            AfterFence::StayOff => "stay-off".into(),
            AfterFence::PowerOn { per_hour } => format!("power-on/{per_hour}"),
        },
    }
}

fn fence_device(device: &FenceDevice) -> v1::FenceDevice {
    let plain = |key: &String| is_plain_option(key);
    v1::FenceDevice {
        agent: device.agent.clone(),
        options: device
            .options
            .iter()
            .filter(|(key, _)| plain(key))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect(),
        timeout_ms: device.timeout_ms,
        level: u32::from(device.level),
        kept: device.options.keys().filter(|key| !plain(key)).cloned().collect(),
    }
}

/// Puts the values in that a fence device keeps: those of the device of the same agent and level there is now.
pub fn keep_secrets(
    operation: &mut v1::submit_request::Operation,
    state: &ClusterState,
) -> Result<(), ConvertError> {
    use v1::submit_request::Operation as Asked;
    match operation {
        Asked::SetFenceDevices(set) => {
            let known = control::node(&set.node)
                .ok()
                .and_then(|name| state.node_named(&name))
                .map_or(&[][..], |node| node.fence_devices.as_slice());
            set.devices.iter_mut().try_for_each(|device| fill_in(device, known, &set.node))
        }
        Asked::ApplyFleet(apply) => apply
            .changes
            .iter_mut()
            .filter_map(|change| change.operation.as_mut())
            .try_for_each(|operation| keep_secrets(operation, state)),
        _ => Ok(()),
    }
}

fn fill_in(
    device: &mut v1::FenceDevice,
    known: &[FenceDevice],
    node: &str,
) -> Result<(), ConvertError> {
    if device.kept.is_empty() {
        return Ok(());
    }
    let alike = |other: &&FenceDevice| {
        other.agent == device.agent && u32::from(other.level) == device.level
    };
    // Of two alike, as of two power supplies at one level, the one with the same address is meant.
    let same = |other: &&FenceDevice| {
        device.options.iter().all(|(key, value)| other.options.get(key) == Some(value))
    };
    let mut candidates = known.iter().filter(alike);
    let found = candidates.clone().find(same).or_else(|| candidates.next());
    for key in std::mem::take(&mut device.kept) {
        let value = found.and_then(|found| found.options.get(&key)).ok_or_else(|| {
            let reason = format!(
                "node {node} has no {} at level {} with a value of {key:?} that could be kept; give the value",
                device.agent, device.level
            );
            ConvertError::new("kept", reason)
        })?;
        device.options.insert(key, value.clone());
    }
    Ok(())
}

/// The same definitions in the words in which the cluster says them, each checked as the cluster checks it. The error
/// names the object.
pub fn canonical(mut fleet: v1::Fleet) -> Result<v1::Fleet, String> {
    for domain in &mut fleet.failover_domains {
        let read = control::failover_domain(domain.clone())
            .map_err(|error| format!("failover domain {}: {error}", domain.name))?;
        *domain = view::failover_domain(&read);
    }
    for vm in &mut fleet.vms {
        let policy = vm.policy.take().unwrap_or_else(crate::file::vm_policy);
        let read = control::policy(policy).map_err(|error| format!("VM {}: {error}", vm.name))?;
        vm.policy = Some(view::policy(&read));
    }
    for rule in &mut fleet.placement_rules {
        let read = placing::placement_rule(rule.clone())
            .map_err(|error| format!("placement rule {}: {error}", rule.name))?;
        *rule = placing::write_placement_rule(&read);
    }
    for spec in &mut fleet.services {
        let read = service::spec(spec.clone(), Uuid::nil())
            .map_err(|error| format!("service {}: {error}", spec.name))?;
        *spec = service::write_spec(&read);
    }
    for node in &mut fleet.nodes {
        for device in &node.fence_devices {
            let checked = v1::FenceDevice { kept: Vec::new(), ..device.clone() };
            control::fence_device(checked)
                .map_err(|error| format!("node {}: {error}", node.name))?;
        }
    }
    Ok(fleet)
}

/// Changes that are made together. `request` is their identity; it makes the UUIDs of domains that have none, too.
pub fn changes(apply: v1::ApplyFleet, request: Uuid) -> Result<Operation, ConvertError> {
    let changes = (1u128..)
        .zip(apply.changes)
        .map(|(number, change)| {
            let asked = change
                .operation
                .ok_or_else(|| ConvertError::new("changes", "one has no operation"))?;
            let fresh = request.as_u128() ^ (number << 16);
            let fresh = uuid::Builder::from_random_bytes(fresh.to_be_bytes()).into_uuid();
            control::operation(asked, fresh)
        })
        .collect::<Result<_, _>>()?;
    Ok(Operation::ApplyChanges { batch: request, parts: 0, based_on: apply.based_on, changes })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn known() -> Vec<FenceDevice> {
        let device = |ip: &str, password: &str| FenceDevice {
            agent: "fence_ipmilan".into(),
            options: BTreeMap::from([
                ("ip".to_owned(), ip.to_owned()),
                ("password".to_owned(), password.to_owned()),
            ]),
            timeout_ms: 20_000,
            level: 1,
        };
        vec![device("10.0.0.1", "one"), device("10.0.0.2", "two")]
    }

    #[test]
    fn a_secret_is_not_shown_and_is_kept_where_it_was() {
        let mut shown: Vec<_> = known().iter().map(fence_device).collect();
        assert!(!format!("{shown:?}").contains("two"), "{shown:?}");
        for device in &mut shown {
            assert_eq!(device.kept, ["password"]);
            fill_in(device, &known(), "n").unwrap();
        }
        assert_eq!(shown[0].options["password"], "one");
        assert_eq!(shown[1].options["password"], "two");
        let mut other = fence_device(&known()[0]);
        other.level = 2;
        let error = fill_in(&mut other, &known(), "n").unwrap_err();
        assert!(error.reason.contains("node n has no fence_ipmilan at level 2"), "{error}");
    }

    #[test]
    fn plain_options_are_sorted_and_none_names_a_secret() {
        assert!(PLAIN_OPTIONS.is_sorted());
        for secret in ["pass", "secret", "token", "community", "key", "identity", "script"] {
            assert!(PLAIN_OPTIONS.iter().all(|option| !option.contains(secret)), "{secret}");
        }
    }
}
