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
                let field = field(&mut wanted, key).ok_or_else(|| {
                    let text = format!("no setting is named {key}; `settings show` lists them");
                    Failure::new(Kind::Input, text)
                })?;
                *field = value.parse().map_err(|_| {
                    Failure::new(Kind::Input, format!("{key} = {value} is not a whole number"))
                })?;
            }
            cx.cluster.submit(Operation::ChangeSettings(wanted)).await?;
            show(cx, &wanted);
            Ok(())
        }
    }
}

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
        _ => return None,
    })
}

const KEYS: [&str; 13] = [
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
];

fn show(cx: &Context, settings: &v1::Settings) {
    let mut settings = *settings;
    let values: Vec<(&str, u64)> =
        KEYS.iter().filter_map(|key| Some((*key, *field(&mut settings, key)?))).collect();
    if cx.json {
        let all: serde_json::Map<String, serde_json::Value> =
            values.iter().map(|(key, value)| ((*key).to_owned(), (*value).into())).collect();
        render::json(&all);
    } else {
        let rows = values.iter().map(|(key, value)| [(*key).to_owned(), value.to_string()]);
        render::line(&table(["SETTING", "VALUE"], rows));
    }
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
