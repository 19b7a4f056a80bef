//! `clusvcadm`: what is asked of a group.

use std::ffi::OsString;
use std::io::Write;

use proto::v1;

use super::act::{self, Place};
use super::group::full_name;
use super::{Early, block_on, cluster, is_up, options, own_node, status};
use crate::exit::{Failure, Kind};

/// RGManager's answers: their number, and the sentence that is printed. The exit code is the number modulo 256.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(dead_code, reason = "the table is RGManager's, whole")]
pub(super) enum Answer {
    Permission = -18,
    RanOn = -17,
    Exclusive = -16,
    Domain = -15,
    Node = -12,
    Frozen = -11,
    Running = -10,
    Quorum = -9,
    Invalid = -8,
    Dependency = -7,
    Again = -6,
    Deadlock = -5,
    NoService = -4,
    Forward = -3,
    Abort = -2,
    Fail = -1,
    Success = 0,
}

impl Answer {
    pub(super) fn sentence(self) -> &'static str {
        match self {
            // The spelling is RGManager's.
            Self::Permission => "Permissing denied",
            Self::RanOn => "Failed; service running on original owner",
            Self::Exclusive => "Service not runnable: cannot run exclusive",
            Self::Domain => "Service not runnable",
            Self::Node => "Target node dead / nonexistent",
            Self::Frozen => "Failure: Service is frozen",
            Self::Running => "Service is already running",
            Self::Quorum => "Operation requires quorum",
            Self::Invalid => "Invalid operation for resource",
            Self::Dependency => "Operation violates dependency rule",
            Self::Again => "Temporary failure; try again",
            Self::Deadlock => "Operation would cause a deadlock",
            Self::NoService => "Service does not exist",
            Self::Forward => "Service not mastered locally",
            Self::Abort => "Aborted; service failed",
            Self::Fail => "Failure",
            Self::Success => "Success",
        }
    }

    pub(super) fn exit_code(self) -> u8 {
        match self {
            Self::Running => 0,
            other => (other as i32).rem_euclid(256) as u8,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    Enable,
    Disable,
    Stop,
    Relocate,
    Restart,
    Migrate,
    Freeze,
    Unfreeze,
    Convalesce,
}

impl Verb {
    fn words(self) -> &'static str {
        match self {
            Self::Enable => "trying to enable",
            Self::Disable => "disabling",
            Self::Stop => "stopping",
            Self::Relocate => "relocate",
            Self::Restart => "trying to restart",
            Self::Migrate => "migrate",
            Self::Freeze => "freezing",
            Self::Unfreeze => "unfreezing",
            Self::Convalesce => "convalescing",
        }
    }
}

/// What the command line asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Request {
    Lock,
    Unlock,
    ShowLock,
    Act { verb: Verb, group: String, member: Option<String>, by_domain: bool, quiet: bool },
}

pub(super) fn parse(program: &str, arguments: &[OsString]) -> Result<Request, Early> {
    let mut verb = None;
    let (mut member, mut by_domain, mut quiet) = (None, false, false);
    let both = || Err(Early::complains("Cannot use '-F' with '-n' or '-m'\n", 1));
    for (flag, value) in options(arguments, "eMdrncmRsZU", "lSuFvqh") {
        let acts = match flag {
            'l' => return Ok(Request::Lock),
            'S' => return Ok(Request::ShowLock),
            'u' => return Ok(Request::Unlock),
            'v' => return Err(Early::says(format!("{}\n", env!("CARGO_PKG_VERSION")), 0)),
            'q' => {
                quiet = true;
                continue;
            }
            'F' if member.is_some() => return both(),
            'F' => {
                by_domain = true;
                continue;
            }
            'm' | 'n' if by_domain => return both(),
            'm' | 'n' => {
                member = value;
                continue;
            }
            'e' => Verb::Enable,
            'd' => Verb::Disable,
            's' => Verb::Stop,
            'r' => Verb::Relocate,
            'R' => Verb::Restart,
            'M' => Verb::Migrate,
            'Z' => Verb::Freeze,
            'U' => Verb::Unfreeze,
            'c' => Verb::Convalesce,
            _ => return Err(Early::says(usage(program), 1)),
        };
        verb = value.map(|group| (acts, group));
    }
    let Some((verb, group)) = verb else { return Err(Early::says(usage(program), 1)) };
    if verb == Verb::Migrate && member.is_none() {
        return Err(Early::says("Migration requires a target cluster member\n", 1));
    }
    Ok(Request::Act { verb, group: full_name(&group), member, by_domain, quiet })
}

fn usage(program: &str) -> String {
    format!(
        "usage: {program} [command]

Resource Group Control Commands:
  -v                     Display version and exit
  -d <group>             Disable <group>.  It stays down until an
                         administrator enables it again.
  -e <group>             Enable <group>
  -e <group> -F          Enable <group> according to failover
                         domain rules
  -e <group> -m <member> Enable <group> on <member>
  -r <group> -m <member> Relocate <group> [to <member>]: stop it and
                         start it on another cluster member
  -M <group> -m <member> Migrate <group> to <member>
                         (e.g. for live migration of VMs)
  -q                     Quiet operation
  -R <group>             Restart a group in place.
  -s <group>             Stop <group>.  It stays down until it is enabled.
  -Z <group>             Freeze <group>: nothing is done to it
  -U <group>             Unfreeze (thaw) <group>
  -c <group>             Convalesce (repair, fix) <group>: start failed,
                         non-critical resources in it

Resource Group Locking (for cluster Shutdown / Debugging):
  -l                     Lock: nothing starts
  -S                     Show lock state
  -u                     Unlock: things start again
"
    )
}

/// The member that is meant by a name that is none: the one that begins with most of it.
pub(super) fn closest<'n>(
    nodes: &'n [v1::Node],
    name: &str,
) -> Result<(&'n v1::Node, String), String> {
    let common = |node: &v1::Node| {
        node.name.bytes().zip(name.bytes()).take_while(|(left, right)| left == right).count()
    };
    let longest = nodes.iter().map(common).max().unwrap_or_default();
    let mut alike = nodes.iter().filter(|node| common(node) == longest);
    match (longest, alike.next(), alike.next()) {
        (0, _, _) | (_, None, _) => Err(format!("No matches for '{name}' found\n")),
        (_, Some(_), Some(_)) => Err(format!("More than one possible match for '{name}' found\n")),
        (_, Some(node), None) => Ok((node, format!("Closest match: '{}'\n", node.name))),
    }
}

/// The line before the answer.
pub(super) fn announce(verb: Verb, group: &str, member: Option<&str>) -> String {
    match (verb, member) {
        (Verb::Relocate | Verb::Migrate, None) => format!("Trying to {} {group}...", verb.words()),
        (Verb::Relocate | Verb::Migrate, Some(member)) => {
            format!("Trying to {} {group} to {member}...", verb.words())
        }
        (_, None) => format!("Local machine {} {group}...", verb.words()),
        (_, Some(member)) => format!("Member {member} {} {group}...", verb.words()),
    }
}

/// Berth's no in RGManager's words. `state` is the VM's when it was asked.
pub(super) fn answer(verb: Verb, failure: &Failure, state: &str) -> Answer {
    match failure.rejection.as_deref() {
        Some("unknown-vm" | "unknown-service") => return Answer::NoService,
        Some("unknown-node") => return Answer::Node,
        Some("frozen") => return Answer::Frozen,
        Some("bad-target") if failure.message.contains("failover domain") => return Answer::Domain,
        Some("bad-target") if failure.message.contains("runs there already") => {
            return Answer::Invalid;
        }
        Some("bad-target") if is_exclusive(&failure.message) => return Answer::Dependency,
        Some("bad-target") => return Answer::Node,
        Some("dependency-cycle") => return Answer::Dependency,
        Some("cannot-migrate") => return Answer::Invalid,
        Some("not-frozen") => return not_frozen(state),
        // The copy began after the VM was looked at.
        Some("busy") if verb == Verb::Enable && state == "migrating" => return Answer::Running,
        Some("busy" | "restoring" | "locked" | "paused") => return Answer::Again,
        Some("wrong-state") => return wrong_state(verb, state),
        Some(_) | None => {}
    }
    match failure.kind {
        Kind::NotFound => Answer::NoService,
        Kind::Unreachable => Answer::Quorum,
        Kind::CannotNow => cannot_now(failure, state),
        Kind::Deadline | Kind::Superseded => Answer::Again,
        Kind::OperationFailed if is_exclusive(&failure.message) => Answer::Dependency,
        // It goes on where it was: the copy failed, and the guest did not.
        Kind::OperationFailed if matches!(verb, Verb::Migrate | Verb::Relocate) => Answer::RanOn,
        Kind::OperationFailed => Answer::Fail,
        Kind::Refused | Kind::Input | Kind::Internal => Answer::Fail,
    }
}

/// A node is taken by one that is exclusive, or an exclusive one would not be alone there: RGManager reference, section 6.2.
fn is_exclusive(message: &str) -> bool {
    [model::plan::EXCLUSIVE_IS_THERE, model::plan::OTHERS_ARE_THERE]
        .iter()
        .any(|words| message.contains(words))
}

/// Accepted, and the leader does not see how. RGManager refused what it could not begin.
fn cannot_now(failure: &Failure, state: &str) -> Answer {
    match failure.reason.as_deref() {
        Some("depends-on") => Answer::Dependency,
        _ if is_exclusive(&failure.message) => Answer::Dependency,
        Some("frozen") => Answer::Frozen,
        Some("stop-failed" | "conflict" | "lost") => Answer::Abort,
        Some("no-place" | "cannot-leave") | None => Answer::Domain,
        Some(_) if matches!(state, "failed" | "conflict" | "lost") => Answer::Abort,
        Some(_) => Answer::Again,
    }
}

/// What is not frozen is thawed already; in states that pass RGManager said to try again.
fn not_frozen(state: &str) -> Answer {
    match state {
        "stopped" | "started" | "migrating" | "disabled" => Answer::Success,
        _ => Answer::Again,
    }
}

/// RGManager reference, section 3.3.
fn wrong_state(verb: Verb, state: &str) -> Answer {
    let failed = matches!(state, "failed" | "conflict" | "lost");
    match verb {
        Verb::Migrate => Answer::Again,
        Verb::Enable if matches!(state, "started" | "migrating") => Answer::Running,
        Verb::Enable | Verb::Relocate if failed => Answer::Abort,
        Verb::Stop | Verb::Restart if failed => Answer::Fail,
        Verb::Relocate | Verb::Restart if state == "disabled" => Answer::Invalid,
        Verb::Freeze | Verb::Unfreeze | Verb::Convalesce => Answer::Again,
        _ => Answer::Again,
    }
}

pub(super) fn main(program: &str, arguments: &[OsString]) -> u8 {
    let request = match parse(program, arguments) {
        Ok(request) => request,
        Err(early) => {
            print(&early.out, false);
            eprint!("{}", early.error);
            return early.code;
        }
    };
    block_on(run(request)).unwrap_or_else(|error| {
        eprintln!("{error}");
        1
    })
}

fn print(text: &str, quiet: bool) {
    if quiet {
        return;
    }
    let mut out = std::io::stdout().lock();
    // Nobody reads it: what was asked is done all the same, as with RGManager.
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

async fn run(request: Request) -> u8 {
    let no_cluster = |failure: &Failure| {
        print("Could not connect to cluster service\n", false);
        eprintln!("clusvcadm: {failure}");
        1
    };
    let cluster = match cluster() {
        Ok(cluster) => cluster,
        Err(failure) => return no_cluster(&failure),
    };
    // The leader's view: what a replica last heard of a node may be old, and must not keep an operator from it.
    let known = match status(&cluster, false).await {
        Ok(known) => known,
        Err(failure) => match status(&cluster, true).await {
            Ok(_) => {
                print(&format!("{}\n", Answer::Quorum.sentence()), false);
                eprintln!("clusvcadm: {failure}");
                return Answer::Quorum.exit_code();
            }
            Err(_) => return no_cluster(&failure),
        },
    };
    match request {
        Request::Lock | Request::Unlock | Request::ShowLock => {
            let (text, code) = act::lock(&cluster, &request).await;
            print(&text, false);
            code
        }
        Request::Act { verb, group, member, by_domain, quiet } => {
            let say = |text: &str| print(text, quiet);
            let mut target = None;
            if let Some(name) = &member {
                let found = known.nodes.iter().find(|node| node.name == *name);
                let node = match found {
                    Some(node) => node,
                    None => {
                        say(&format!("'{name}' not in membership list\n"));
                        match closest(&known.nodes, name) {
                            Ok((node, text)) => {
                                say(&text);
                                node
                            }
                            Err(text) => {
                                say(&text);
                                return 1;
                            }
                        }
                    }
                };
                if verb == Verb::Migrate && !is_up(node) {
                    say(&format!("'{}' is offline\n", node.name));
                    return 1;
                }
                target = Some(node);
            }
            say(&announce(verb, &group, target.map(|node| node.name.as_str())));
            if !nix::unistd::geteuid().is_root() {
                say(&format!("{}\n", Answer::Permission.sentence()));
                return Answer::Permission.exit_code();
            }
            let place = Place { target, local: own_node(&known.nodes), by_domain };
            let (answer, owner, why) = match act::act(&cluster, verb, &group, &place).await {
                Ok(owner) => (Answer::Success, owner, None),
                Err((answer, why)) => (answer, None, why),
            };
            say(&format!("{}\n", answer.sentence()));
            if let Some(why) = why {
                // What RGManager wrote to the log only.
                eprintln!("clusvcadm: {why}");
            }
            if answer == Answer::Success && matches!(verb, Verb::Enable | Verb::Relocate) {
                let owner = owner.unwrap_or_else(|| "none".into());
                let elsewhere = target.is_some_and(|node| node.name != owner);
                let warning = if elsewhere { "Warning: " } else { "" };
                say(&format!("{warning}{group} is now running on {owner}\n"));
            }
            answer.exit_code()
        }
    }
}
