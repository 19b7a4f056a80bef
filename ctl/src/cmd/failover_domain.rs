//! Failover domains.

use proto::v1;
use proto::v1::submit_request::Operation;

use crate::args::FailoverDomain as Command;
use crate::cmd::{Context, status};
use crate::exit::Failure;
use crate::render::{self, FailoverDomain, table};

pub(super) async fn run(cx: &Context, command: Command) -> Result<(), Failure> {
    let (name, word, operation) = match command {
        Command::List => {
            let domains = status::get(cx, false).await?.failover_domains;
            if cx.json {
                render::json(&domains.iter().map(FailoverDomain::from).collect::<Vec<_>>());
            } else {
                render::line(&table(
                    ["FAILOVER DOMAIN", "NODES", "FLAGS", "FAILBACK"],
                    domains.iter().map(row),
                ));
            }
            return Ok(());
        }
        Command::Set { name, nodes, ordered, restricted, nofailback, failback } => {
            let nodes = nodes.into_iter().collect();
            let window = failback.failback_window.map(|(from, to)| v1::Window { from, to });
            let failback = v1::Failback {
                delay_ms: failback.failback_delay.as_millis() as u64,
                at_once: failback.failback_at_once,
                per_hour: failback.failback_per_hour,
                window,
                relocate: failback.failback_relocate,
            };
            let domain = v1::FailoverDomain {
                name: name.clone(),
                nodes,
                ordered,
                restricted,
                nofailback,
                failback: Some(failback),
            };
            (name, "set", Operation::PutFailoverDomain(domain))
        }
        Command::Remove { name } => {
            (name.clone(), "removed", Operation::RemoveFailoverDomain(name))
        }
    };
    cx.cluster.submit(operation).await?;
    if cx.json {
        render::json(&serde_json::json!({ "failover_domain": name, "done": word }));
    } else {
        render::line(&format!("{name}: {word}"));
    }
    Ok(())
}

fn row(domain: &v1::FailoverDomain) -> [String; 4] {
    let mut nodes: Vec<_> = domain.nodes.iter().collect();
    nodes.sort_by_key(|(node, priority)| (**priority, (*node).clone()));
    let nodes: Vec<_> = nodes.iter().map(|(node, priority)| format!("{node}:{priority}")).collect();
    let flags = [
        (domain.ordered, "ordered"),
        (domain.restricted, "restricted"),
        (domain.nofailback, "nofailback"),
    ];
    let flags: Vec<_> = flags.iter().filter(|(set, _)| *set).map(|(_, flag)| *flag).collect();
    [domain.name.clone(), nodes.join(" "), flags.join(" "), failback(domain)]
}

fn failback(domain: &v1::FailoverDomain) -> String {
    let Some(failback) = domain.failback.filter(|_| !domain.nofailback) else {
        return String::new();
    };
    let clock = |minute: u32| format!("{:02}:{:02}", minute / 60, minute % 60);
    let parts = [
        (failback.delay_ms > 0).then(|| format!("after {} s", failback.delay_ms / 1_000)),
        (failback.at_once > 0).then(|| format!("{} at once", failback.at_once)),
        (failback.per_hour > 0).then(|| format!("{} an hour", failback.per_hour)),
        failback.window.map(|it| format!("{}-{} UTC", clock(it.from), clock(it.to))),
        failback.relocate.then(|| "also cold".to_owned()),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}
