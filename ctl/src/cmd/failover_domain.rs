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
                    ["FAILOVER DOMAIN", "NODES", "FLAGS"],
                    domains.iter().map(row),
                ));
            }
            return Ok(());
        }
        Command::Set { name, nodes, ordered, restricted, nofailback } => {
            let nodes = nodes.into_iter().collect();
            let domain =
                v1::FailoverDomain { name: name.clone(), nodes, ordered, restricted, nofailback };
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

fn row(domain: &v1::FailoverDomain) -> [String; 3] {
    let mut nodes: Vec<_> = domain.nodes.iter().collect();
    nodes.sort_by_key(|(node, priority)| (**priority, (*node).clone()));
    let nodes: Vec<_> = nodes.iter().map(|(node, priority)| format!("{node}:{priority}")).collect();
    let flags = [
        (domain.ordered, "ordered"),
        (domain.restricted, "restricted"),
        (domain.nofailback, "nofailback"),
    ];
    let flags: Vec<_> = flags.iter().filter(|(set, _)| *set).map(|(_, flag)| *flag).collect();
    [domain.name.clone(), nodes.join(" "), flags.join(" ")]
}
