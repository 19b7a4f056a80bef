//! Taking domains that hosts have already under management, without touching them.

use std::collections::BTreeMap;

use model::domain_xml;
use proto::v1::submit_request::Operation;
use proto::v1::{self, AddVm, DescribeDomainRequest, EnableVm};
use tonic::Response;

use crate::args::Adopt;
use crate::cmd::{Context, fleet, status};
use crate::exit::{Failure, Kind};
use crate::fleet::diff::{self, Change, Verb};
use crate::render;
use crate::wait::wait;

/// A domain that is to be taken.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Take {
    name: String,
    uuid: String,
    node: String,
    active: bool,
    /// What to know about it.
    note: Option<String>,
}

/// A domain somewhere.
#[derive(Debug, Clone)]
struct Found<'s> {
    node: &'s str,
    domain: &'s v1::UnmanagedDomain,
}

impl Found<'_> {
    fn active(&self) -> bool {
        self.domain.presence != "inactive"
    }

    fn place(&self) -> String {
        format!("{} ({}, UUID {})", self.node, self.domain.presence, self.domain.uuid)
    }
}

/// What is taken, and what clashes, with both places named.
fn choose(nodes: &[v1::Node], managed: &[v1::Vm], wanted: &Adopt) -> (Vec<Take>, Vec<String>) {
    let mut by_name: BTreeMap<&str, Vec<Found<'_>>> = BTreeMap::new();
    let mut by_uuid: BTreeMap<&str, Vec<Found<'_>>> = BTreeMap::new();
    for node in nodes {
        for domain in &node.unmanaged {
            let found = Found { node: &node.name, domain };
            by_name.entry(&domain.name).or_default().push(found.clone());
            by_uuid.entry(&domain.uuid).or_default().push(found);
        }
    }
    let (mut takes, mut clashes) = (Vec::new(), Vec::new());
    for (name, places) in by_name {
        let here =
            places.iter().any(|place| wanted.node.as_ref().is_none_or(|node| node == place.node));
        if !here || !(wanted.all || wanted.names.iter().any(|wanted| wanted == name)) {
            continue;
        }
        match one(name, &places, &by_uuid, managed) {
            Ok(take) => takes.push(take),
            // Two names of one UUID are one clash.
            Err(clash) if clashes.contains(&clash) => {}
            Err(clash) => clashes.push(clash),
        }
    }
    (takes, clashes)
}

fn one(
    name: &str,
    places: &[Found<'_>],
    by_uuid: &BTreeMap<&str, Vec<Found<'_>>>,
    managed: &[v1::Vm],
) -> Result<Take, String> {
    let all = |places: &[Found<'_>]| {
        places
            .iter()
            .map(|place| format!("{} on {}", place.domain.name, place.place()))
            .collect::<Vec<_>>()
            .join(" and ")
    };
    let uuid = &places[0].domain.uuid;
    if let Some(vm) = managed.iter().find(|vm| vm.name == name) {
        return Err(format!(
            "{}: a VM of that name is managed already, with UUID {}; rename the domain",
            all(places),
            vm.uuid
        ));
    }
    if places.iter().any(|place| place.domain.uuid != *uuid) {
        return Err(format!("{} are two domains of one name; rename one", all(places)));
    }
    let same = by_uuid.get(uuid.as_str()).map(Vec::as_slice).unwrap_or_default();
    if same.iter().any(|place| place.domain.name != name) {
        return Err(format!("{} have one UUID; give one a UUID of its own", all(same)));
    }
    let active: Vec<_> = places.iter().filter(|place| place.active()).collect();
    if active.len() > 1 {
        return Err(format!("{} both hold the guest: it runs twice; end one of them", all(places)));
    }
    if let Some(place) = active.iter().find(|place| place.domain.presence == "incoming") {
        return Err(format!("{name} is migrating to {}; wait for it", place.node));
    }
    let chosen = active.first().copied().unwrap_or(&places[0]);
    let others: Vec<_> =
        places.iter().filter(|place| place.node != chosen.node).map(|place| place.node).collect();
    let note = (!others.is_empty()).then(|| {
        format!("the definition of {} is taken, not that of {}", chosen.node, others.join(", "))
    });
    Ok(Take {
        name: name.to_owned(),
        uuid: uuid.clone(),
        node: chosen.node.to_owned(),
        active: chosen.active(),
        note,
    })
}

pub(super) async fn run(cx: &Context, wanted: &Adopt) -> Result<(), Failure> {
    // The configuration first: whatever changes after it is looked at makes the changes be refused.
    let based_on = fleet::get(cx).await?.configuration;
    let known = status::get(cx, false).await?;
    check(&known, wanted)?;
    let (takes, clashes) = choose(&known.nodes, &known.vms, wanted);
    let mut changes = Vec::new();
    for take in takes.iter().filter(|_| !wanted.dry_run) {
        changes.push(change(cx, take, !wanted.no_enable).await?);
    }
    let mut revision = None;
    if !changes.is_empty() {
        let (request_id, reply) = cx.cluster.submit(diff::request(based_on, &changes)).await?;
        revision = Some(reply.revision);
        if !cx.no_wait && !wanted.no_enable {
            for take in takes.iter().filter(|take| take.active) {
                wait(&cx.cluster, &request_id, &take.name, cx.json).await?;
            }
        }
    }
    show(cx, wanted, &takes, &clashes, revision);
    if clashes.is_empty() {
        return Ok(());
    }
    let text = format!("{} domains were not taken, for they clash", clashes.len());
    Err(Failure::new(Kind::OperationFailed, text))
}

/// Every name and node that was said has to be there.
fn check(known: &v1::Status, wanted: &Adopt) -> Result<(), Failure> {
    if let Some(node) = &wanted.node
        && !known.nodes.iter().any(|it| it.name == *node)
    {
        let text = format!("no node is named {node}; `berthctl node list` lists them");
        return Err(Failure::new(Kind::NotFound, text));
    }
    for name in &wanted.names {
        let there = known
            .nodes
            .iter()
            .filter(|node| wanted.node.as_ref().is_none_or(|wanted| *wanted == node.name))
            .any(|node| node.unmanaged.iter().any(|domain| domain.name == *name));
        if !there {
            let text = match known.vms.iter().any(|vm| vm.name == *name) {
                true => format!("{name} is managed already"),
                false => format!(
                    "no host has a domain {name} that is not managed; `berthctl node show NODE` lists them"
                ),
            };
            return Err(Failure::new(Kind::NotFound, text));
        }
    }
    Ok(())
}

/// Puts it under management. One that runs is enabled in the same moment, which finds it running and starts nothing.
async fn change(cx: &Context, take: &Take, enable: bool) -> Result<Change, Failure> {
    let message = DescribeDomainRequest { node: take.node.clone(), uuid: take.uuid.clone() };
    let reply = cx
        .cluster
        .ask(|mut client| {
            let message = message.clone();
            async move { client.describe_domain(message).await.map(Response::into_inner) }
        })
        .await
        .map_err(|failure| Failure {
            message: format!("{} on {}: {}", take.name, take.node, failure.message),
            ..failure
        })?;
    let input = |why: String| {
        Failure::new(Kind::Input, format!("domain {} of {}: {why}", take.name, take.node))
    };
    let domain = domain_xml::parse(&reply.xml).map_err(|error| input(error.to_string()))?;
    let same = domain.uuid.is_some_and(|uuid| uuid.to_string() == take.uuid);
    if domain.name.as_str() != take.name || !same {
        return Err(input("it was replaced by another while it was looked at".into()));
    }
    let mut operations = vec![Operation::AddVm(AddVm { xml: reply.xml, policy: None })];
    if take.active && enable {
        operations.push(Operation::Enable(EnableVm { vm: take.name.clone(), on: None }));
    }
    Ok(Change {
        verb: Verb::Add,
        object: format!("vm {}", take.name),
        fields: Vec::new(),
        operations,
    })
}

fn show(cx: &Context, wanted: &Adopt, takes: &[Take], clashes: &[String], revision: Option<u64>) {
    if cx.json {
        let takes: Vec<_> = takes
            .iter()
            .map(|take| {
                serde_json::json!({
                    "vm": take.name, "uuid": take.uuid, "node": take.node, "active": take.active,
                    "note": take.note,
                })
            })
            .collect();
        render::json(&serde_json::json!({
            "taken": takes, "clashes": clashes, "revision": revision, "dry_run": wanted.dry_run,
        }));
        return;
    }
    for take in takes {
        let would = if wanted.dry_run { "would be taken" } else { "taken" };
        let what = match (take.active, wanted.no_enable) {
            (true, false) => format!("{would} where it runs, on {}", take.node),
            (true, true) => format!("{would}, disabled; it runs on {}", take.node),
            (false, _) => format!("{would}, disabled; it is defined on {}", take.node),
        };
        let note = take.note.as_ref().map(|note| format!(" ({note})")).unwrap_or_default();
        render::line(&format!("{}: {what}{note}", take.name));
    }
    for clash in clashes {
        render::line(&format!("not taken: {clash}"));
    }
    if takes.is_empty() && clashes.is_empty() {
        render::line("no domain is there that is not managed");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, domains: &[(&str, &str, &str)]) -> v1::Node {
        v1::Node {
            name: name.into(),
            unmanaged: domains
                .iter()
                .map(|(name, uuid, presence)| v1::UnmanagedDomain {
                    name: (*name).into(),
                    uuid: (*uuid).into(),
                    presence: (*presence).into(),
                    memory_mib: 64,
                })
                .collect(),
            ..v1::Node::default()
        }
    }

    fn all() -> Adopt {
        Adopt { names: Vec::new(), all: true, node: None, dry_run: false, no_enable: false }
    }

    #[test]
    fn a_domain_is_taken_where_it_runs_and_once_where_two_hosts_define_it() {
        let nodes = [
            node("n1", &[("a", "1", "running"), ("b", "2", "inactive"), ("c", "3", "inactive")]),
            node("n2", &[("b", "2", "running"), ("c", "3", "inactive")]),
        ];
        let (takes, clashes) = choose(&nodes, &[], &all());
        assert_eq!(clashes, Vec::<String>::new());
        let said: Vec<_> = takes
            .iter()
            .map(|take| (take.name.as_str(), take.node.as_str(), take.active, take.note.is_some()))
            .collect();
        assert_eq!(
            said,
            [("a", "n1", true, false), ("b", "n2", true, true), ("c", "n1", false, true)]
        );
        let one = Adopt { names: vec!["b".into()], all: false, ..all() };
        assert_eq!(choose(&nodes, &[], &one).0.len(), 1);
        let there = Adopt { node: Some("n2".into()), ..all() };
        let names: Vec<_> =
            choose(&nodes, &[], &there).0.into_iter().map(|take| take.name).collect();
        assert_eq!(names, ["b", "c"]);
    }

    #[test]
    fn a_clash_names_both_places_and_nothing_of_it_is_taken() {
        let nodes = [
            node(
                "n1",
                &[
                    ("a", "1", "running"),
                    ("b", "2", "inactive"),
                    ("c", "3", "running"),
                    ("d", "4", "running"),
                ],
            ),
            node("n2", &[("a", "9", "running"), ("x", "2", "running"), ("c", "3", "paused")]),
        ];
        let managed = [v1::Vm { name: "d".into(), uuid: "7".into(), ..v1::Vm::default() }];
        let (takes, clashes) = choose(&nodes, &managed, &all());
        assert_eq!(takes, []);
        assert_eq!(
            clashes,
            [
                "a on n1 (running, UUID 1) and a on n2 (running, UUID 9) are two domains of one name; rename one",
                "b on n1 (inactive, UUID 2) and x on n2 (running, UUID 2) have one UUID; give one a UUID of its own",
                "c on n1 (running, UUID 3) and c on n2 (paused, UUID 3) both hold the guest: it runs twice; end one of them",
                "d on n1 (running, UUID 4): a VM of that name is managed already, with UUID 7; rename the domain",
            ]
        );
    }
}
