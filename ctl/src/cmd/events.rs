//! What happened, and what happens.

use proto::v1;
use tonic::Response;

use crate::client::worth_another;
use crate::cmd::Context;
use crate::exit::Failure;
use crate::render::{self, Event, time};

/// With `follow` a stream that breaks is taken up again where it broke: none is lost and none is shown twice.
pub(super) async fn run(
    cx: &Context,
    follow: bool,
    stale: bool,
    after: u64,
    vm: Option<String>,
    node: Option<String>,
) -> Result<(), Failure> {
    let mut last: Option<(u64, u32)> = None;
    loop {
        // From the revision before the last one shown, for it may have been cut in the middle.
        let after_revision = last.map_or(after, |(revision, _)| revision.saturating_sub(1));
        let (vm, service) = match vm.as_deref().and_then(|vm| vm.strip_prefix("service:")) {
            Some(service) => (None, Some(service.to_owned())),
            None => (vm.clone(), None),
        };
        let node = node.clone();
        let message = v1::WatchEventsRequest { after_revision, follow, vm, node, stale, service };
        let mut stream = cx
            .cluster
            .ask(|mut client| {
                let message = message.clone();
                async move { client.watch_events(message).await.map(Response::into_inner) }
            })
            .await?;
        loop {
            match stream.message().await {
                Ok(Some(event)) => {
                    let place = (event.revision, event.sequence);
                    if last.is_none_or(|last| last < place) {
                        last = Some(place);
                        show(cx, &event);
                    }
                }
                Ok(None) if !follow => return Ok(()),
                Ok(None) => break,
                Err(status) if follow && worth_another(&status) => break,
                Err(status) => return Err(status.into()),
            }
        }
    }
}

fn show(cx: &Context, event: &v1::Event) {
    if cx.json {
        render::json_line(&Event::from(event));
    } else {
        let (at, kind) = (time(event.at_ms), &event.kind);
        render::line(&format!(
            "{:>8}  {at}  {:<7}  {kind:<22}  {}",
            event.revision, event.severity, event.text
        ));
    }
}
