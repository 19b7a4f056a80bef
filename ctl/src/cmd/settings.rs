//! What holds for the whole cluster.

use proto::convert::view;
use proto::v1;
use proto::v1::submit_request::Operation;

use crate::args::Settings as Command;
use crate::cmd::{Context, status};
use crate::exit::{Failure, Kind};
use crate::render::{self, table};

pub(super) async fn run(cx: &Context, command: Command) -> Result<(), Failure> {
    let known = status::get(cx, false).await?.settings.unwrap_or_default();
    match command {
        Command::Show => {
            show(cx, &known);
            Ok(())
        }
        Command::Set { values, quiet_network } => {
            let mut wanted = match quiet_network {
                true => view::settings(&model::settings::Settings::quiet_network()),
                false => known,
            };
            for (key, value) in &values {
                set(&mut wanted, key, value)?;
            }
            cx.cluster.submit(Operation::ChangeSettings(wanted.clone())).await?;
            show(cx, &wanted);
            Ok(())
        }
    }
}

/// Sets one setting: a number, a word, or true or false. What words there are the replicas know.
fn set(settings: &mut v1::Settings, key: &str, value: &str) -> Result<(), Failure> {
    let input = |text: String| Failure::new(Kind::Input, text);
    if let Some(word) = word(settings, key) {
        *word = value.to_owned();
    } else if let Some(flag) = flag(settings, key) {
        *flag = value
            .parse()
            .map_err(|_| input(format!("{key} = {value} is neither true nor false")))?;
    } else {
        let field = field(settings, key).ok_or_else(|| {
            input(format!("no setting is named {key}; `settings show` lists them"))
        })?;
        *field =
            value.parse().map_err(|_| input(format!("{key} = {value} is not a whole number")))?;
    }
    Ok(())
}

fn word<'s>(settings: &'s mut v1::Settings, key: &str) -> Option<&'s mut String> {
    Some(match key {
        "placement" => &mut settings.placement,
        "shutdown_policy" => &mut settings.shutdown_policy,
        _ => return None,
    })
}

fn flag<'s>(settings: &'s mut v1::Settings, key: &str) -> Option<&'s mut bool> {
    Some(match key {
        "rebalance_on_start" => &mut settings.rebalance_on_start,
        "auto_rebalance" => &mut settings.auto_rebalance,
        _ => return None,
    })
}

const WORDS: [&str; 2] = ["placement", "shutdown_policy"];
const FLAGS: [&str; 2] = ["rebalance_on_start", "auto_rebalance"];

fn field<'s>(settings: &'s mut v1::Settings, key: &str) -> Option<&'s mut u64> {
    Some(match key {
        "heartbeat_ms" => &mut settings.heartbeat_ms,
        "suspect_after_ms" => &mut settings.suspect_after_ms,
        "lost_after_ms" => &mut settings.lost_after_ms,
        "lease_ttl_ms" => &mut settings.lease_ttl_ms,
        "answer_timeout_ms" => &mut settings.answer_timeout_ms,
        "self_fence_ms" => &mut settings.self_fence_ms,
        "drift_percent" => &mut settings.drift_percent,
        "conflict_grace_ms" => &mut settings.conflict_grace_ms,
        "fence_retry_ms" => &mut settings.fence_retry_ms,
        "isolation_hold_ms" => &mut settings.isolation_hold_ms,
        "mass_loss_percent" => &mut settings.mass_loss_percent,
        "fence_probe_ms" => &mut settings.fence_probe_ms,
        "election_max_ms" => &mut settings.election_max_ms,
        "rebalance_threshold_percent" => &mut settings.rebalance_threshold_percent,
        "rebalance_hold_ms" => &mut settings.rebalance_hold_ms,
        "rebalance_margin_percent" => &mut settings.rebalance_margin_percent,
        "moves_at_once" => &mut settings.moves_at_once,
        "moves_per_node" => &mut settings.moves_per_node,
        _ => return None,
    })
}

const KEYS: [&str; 18] = [
    "heartbeat_ms",
    "suspect_after_ms",
    "lost_after_ms",
    "lease_ttl_ms",
    "answer_timeout_ms",
    "self_fence_ms",
    "drift_percent",
    "conflict_grace_ms",
    "fence_retry_ms",
    "isolation_hold_ms",
    "mass_loss_percent",
    "fence_probe_ms",
    "election_max_ms",
    "rebalance_threshold_percent",
    "rebalance_hold_ms",
    "rebalance_margin_percent",
    "moves_at_once",
    "moves_per_node",
];

fn show(cx: &Context, settings: &v1::Settings) {
    let mut settings = settings.clone();
    let mut values: Vec<(&str, serde_json::Value)> =
        KEYS.iter().filter_map(|key| Some((*key, (*field(&mut settings, key)?).into()))).collect();
    values.extend(
        WORDS.iter().filter_map(|key| Some((*key, word(&mut settings, key)?.clone().into()))),
    );
    values.extend(FLAGS.iter().filter_map(|key| Some((*key, (*flag(&mut settings, key)?).into()))));
    if cx.json {
        let all: serde_json::Map<String, serde_json::Value> =
            values.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        render::json(&all);
        return;
    }
    let shown = |value: &serde_json::Value| match value.as_str() {
        Some(word) => word.to_owned(),
        None => value.to_string(),
    };
    let rows = values.iter().map(|(key, value)| [(*key).to_owned(), shown(value)]);
    render::line(&table(["SETTING", "VALUE"], rows));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_has_its_name() {
        let mut settings = view::settings(&model::settings::Settings::default());
        for key in KEYS {
            assert!(field(&mut settings, key).is_some_and(|value| *value > 0), "{key}");
        }
        assert!(field(&mut settings, "colour").is_none());
    }
}
