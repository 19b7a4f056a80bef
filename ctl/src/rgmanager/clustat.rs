//! `clustat`: members and groups, for people and as XML.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::IsTerminal;
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use proto::v1;

use super::group::{Group, full_name};
use super::{Early, block_on, cluster, is_up, options, own_node, status};
use crate::render;

/// Where no terminal says otherwise.
const PIPED_COLUMNS: usize = 80;
/// `uninitialized`, the longest state.
const STATE_COLUMNS: usize = 14;
/// Linux' MAXHOSTNAMELEN.
const MAX_NAME_COLUMNS: usize = 64;
const CLEAR_SCREEN: &str = "\x1b[H\x1b[2J";
/// What an unknown member or group ends with: -1.
const UNKNOWN: u8 = 255;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) long: bool,
    pub(super) fast: bool,
    pub(super) xml: bool,
    pub(super) quorum: bool,
    pub(super) version: bool,
    pub(super) node_id: bool,
    pub(super) interval: Option<u64>,
    pub(super) member: Option<String>,
    pub(super) group: Option<String>,
}

pub(super) fn parse(program: &str, arguments: &[OsString]) -> Result<Request, Early> {
    let mut request = Request::default();
    for (flag, value) in options(arguments, "smi", "fIlxvQh") {
        match flag {
            'f' => request.fast = true,
            'I' => request.node_id = true,
            'l' => request.long = true,
            'v' => request.version = true,
            'Q' => request.quorum = true,
            's' => request.group = value.map(|value| full_name(&value)),
            'm' => request.member = value,
            'i' => {
                let seconds = value.and_then(|value| value.parse().ok());
                request.interval = Some(seconds.filter(|seconds| *seconds > 0).unwrap_or(1));
            }
            'x' if request.interval.is_some() => {
                let text = "Error: Options '-i' and '-x' are mutually exclusive\n";
                return Err(Early::says(text, 1));
            }
            'x' => request.xml = true,
            _ => return Err(Early::says(usage(program), 0)),
        }
    }
    Ok(request)
}

fn usage(program: &str) -> String {
    format!(
        "usage: {program} <options>
    -i <interval>      Refresh every <interval> seconds.  May not be used
                       with -x.
    -I                 Display local node ID and exit
    -m <member>        Display status of <member> and exit
    -s <service>       Display status of <service> and exit
    -v                 Display version and exit
    -x                 Dump information as XML
    -Q                 Return 0 if quorate, 1 if not (no output)
    -f                 Enable fast clustat reports
    -l                 Use long format for services

"
    )
}

/// What is known, in RGManager's terms.
pub(super) struct View {
    pub(super) cluster: String,
    pub(super) id: u16,
    pub(super) generation: u64,
    pub(super) quorate: bool,
    pub(super) members: Vec<Member>,
    /// None where there is no quorum to ask.
    pub(super) groups: Option<Vec<Group>>,
    pub(super) now: Timestamp,
    pub(super) zone: TimeZone,
    pub(super) columns: usize,
}

/// A node.
pub(super) struct Member {
    pub(super) name: String,
    pub(super) id: u32,
    pub(super) up: bool,
    pub(super) local: bool,
}

impl View {
    pub(super) fn new(status: &v1::Status, quorate: bool, local: Option<&str>) -> Self {
        let number = |node: &v1::Node| node.id as u32;
        let mut members: Vec<_> = status
            .nodes
            .iter()
            .map(|node| Member {
                name: node.name.clone(),
                id: number(node),
                up: is_up(node),
                local: local == Some(node.name.as_str()),
            })
            .collect();
        members.sort_by_key(|member| member.id);
        let hash =
            status.cluster.bytes().fold(0u16, |hash, byte| hash.rotate_left(3) ^ u16::from(byte));
        Self {
            cluster: std::env::var("BERTH_CLUSTER_NAME").unwrap_or_else(|_| "berth".into()),
            id: hash,
            generation: status.term,
            quorate,
            members,
            groups: quorate.then(|| Group::all(status)),
            now: Timestamp::now(),
            zone: TimeZone::system(),
            columns: columns(),
        }
    }

    /// C's `ctime`, less its newline.
    fn time(&self, moment: Timestamp) -> String {
        moment.to_zoned(self.zone.clone()).strftime("%a %b %e %H:%M:%S %Y").to_string()
    }

    fn group_time(&self, group: &Group) -> String {
        Timestamp::from_second(group.since as i64).map(|at| self.time(at)).unwrap_or_default()
    }
}

fn columns() -> usize {
    if !std::io::stdout().is_terminal() {
        return PIPED_COLUMNS;
    }
    terminal_size::terminal_size().map_or(PIPED_COLUMNS, |(width, _)| usize::from(width.0))
}

/// C's `%-N.Ns`: filled up and cut to the column.
fn column(text: &str, width: usize) -> String {
    format!("{:<width$}", text.chars().take(width).collect::<String>())
}

/// The text and the exit code.
pub(super) fn text(view: &View, request: &Request) -> (String, u8) {
    let mut out = String::new();
    let (member, group) = (request.member.as_deref(), request.group.as_deref());
    if member.is_none() && group.is_none() {
        let quorum = if view.quorate { "Quorate" } else { "Inquorate" };
        let _ = write!(
            out,
            "Cluster Status for {} @ {}\nMember Status: {quorum}\n\n",
            view.cluster,
            view.time(view.now)
        );
    }
    let mut codes = (0, 0);
    if group.is_none() || member.is_some() {
        codes.0 = text_members(view, member, &mut out);
    }
    if member.is_none() || group.is_some() {
        codes.1 = match &view.groups {
            Some(groups) => text_groups(view, groups, request, &mut out),
            None => {
                out.push_str("Service states unavailable: Operation requires quorum\n");
                if group.is_some() { UNKNOWN } else { 0 }
            }
        };
    }
    (out, code(request, codes))
}

fn code(request: &Request, (member, group): (u8, u8)) -> u8 {
    match (&request.member, &request.group) {
        (Some(_), _) if member != 0 => member,
        (_, Some(_)) => group,
        _ => 0,
    }
}

fn text_members(view: &View, name: Option<&str>, out: &mut String) -> u8 {
    let width = (view.columns / 2).min(MAX_NAME_COLUMNS);
    let head = |out: &mut String| {
        for (name, id, status) in
            [("Member Name", "ID", "Status"), ("------ ----", "----", "------")]
        {
            let _ = writeln!(out, " {}{} {status}", column(name, width), column(id, 4));
        }
    };
    let mut code = if name.is_some() { UNKNOWN } else { 0 };
    if name.is_none() {
        head(out);
    }
    for member in view.members.iter().filter(|member| name.is_none_or(|name| member.name == name)) {
        if name.is_some() {
            head(out);
            code = u8::from(!member.up);
        }
        let mut state = if member.up { "Online".to_owned() } else { "Offline".to_owned() };
        if member.local {
            state.push_str(", Local");
        }
        if member.up {
            state.push_str(", rgmanager");
        }
        let _ = writeln!(out, " {} {:>4} {state}", column(&member.name, width), member.id as i32);
    }
    if name.is_none() {
        out.push('\n');
    }
    code
}

fn text_groups(view: &View, groups: &[Group], request: &Request, out: &mut String) -> u8 {
    let name = request.group.as_deref();
    // Spaces and the end of the line take six.
    let width = (view.columns.saturating_sub(STATE_COLUMNS + 6) / 2).min(MAX_NAME_COLUMNS);
    let row = |out: &mut String, name: &str, owner: &str, state: &str| {
        let _ = writeln!(
            out,
            " {} {} {}",
            column(name, width),
            column(owner, width),
            column(state, STATE_COLUMNS)
        );
    };
    let head = |out: &mut String| {
        row(out, "Service Name", "Owner (Last)", "State");
        row(out, "------- ----", "----- ------", "-----");
    };
    if request.long {
        out.push_str("Service Information\n------- -----------\n\n");
    } else if name.is_none() {
        head(out);
    }
    let mut code = if name.is_some() { UNKNOWN } else { 0 };
    for group in groups.iter().filter(|group| name.is_none_or(|name| group.name == name)) {
        if name.is_some() {
            code = group.state.exit_code();
            // RGManager prints it in the long format, too.
            head(out);
        }
        if request.long {
            long(view, group, out);
            continue;
        }
        let (owner, last) = (who(&group.owner), who(&group.last_owner));
        let owner = if group.state.is_down() {
            format!("({})", last.chars().take(width.saturating_sub(2)).collect::<String>())
        } else {
            owner.to_owned()
        };
        let letters = group.flag_letters();
        let state = if letters.is_empty() {
            group.state.as_str().to_owned()
        } else {
            let rest = STATE_COLUMNS - 2 - letters.len();
            format!("{}[{letters}]", column(group.state.as_str(), rest))
        };
        row(out, &group.name, &owner, &state);
    }
    code
}

fn who(owner: &Option<String>) -> &str {
    owner.as_deref().unwrap_or("none")
}

fn long(view: &View, group: &Group, out: &mut String) {
    let flags = match group.flags {
        0 => "none".to_owned(),
        _ => group.flag_words(", "),
    };
    let _ = write!(
        out,
        "Service Name      : {}
  Current State   : {} ({})
  Flags           : {flags} ({})
  Owner           : {}
  Last Owner      : {}
  Last Transition : {}

",
        group.name,
        group.state.as_str(),
        group.state as u8,
        group.flags,
        if group.state.is_down() { "none" } else { who(&group.owner) },
        who(&group.last_owner),
        view.group_time(group)
    );
}

/// The XML and the exit code.
pub(super) fn xml(view: &View, request: &Request) -> (String, u8) {
    let mut out = String::from("<?xml version=\"1.0\"?>\n<clustat version=\"4.1.1\">\n");
    let (member, group) = (request.member.as_deref(), request.group.as_deref());
    if member.is_none() && group.is_none() {
        let here = view.members.iter().any(|member| member.local && member.up);
        let _ = write!(
            out,
            "  <cluster name=\"{}\" id=\"{}\" generation=\"{}\"/>\n  <quorum quorate=\"{}\"{} groupmember=\"{}\"/>\n",
            escape(&view.cluster),
            view.id,
            view.generation,
            u8::from(view.quorate),
            // RGManager breaks the line there.
            if view.quorate { "" } else { "\n" },
            u8::from(view.quorate && here)
        );
    }
    let mut codes = (0, 0);
    if group.is_none() || member.is_some() {
        codes.0 = if member.is_some() { UNKNOWN } else { 0 };
        out.push_str("  <nodes>\n");
        for node in view.members.iter().filter(|node| member.is_none_or(|name| node.name == name)) {
            let _ = writeln!(
                out,
                "    <node name=\"{}\" state=\"{}\" local=\"{}\" estranged=\"0\" rgmanager=\"{}\" rgmanager_master=\"0\" qdisk=\"0\" nodeid=\"0x{:08x}\"/>",
                escape(&node.name),
                u8::from(node.up),
                u8::from(node.local),
                u8::from(node.up),
                node.id
            );
            if member.is_some() {
                codes.0 = u8::from(!node.up);
            }
        }
        out.push_str("  </nodes>\n");
    }
    if member.is_none() || group.is_some() {
        codes.1 = if group.is_some() { UNKNOWN } else { 0 };
        if let Some(groups) = &view.groups {
            out.push_str("  <groups>\n");
            for it in groups.iter().filter(|it| group.is_none_or(|name| it.name == name)) {
                xml_group(view, it, &mut out);
                codes.1 = it.state.exit_code();
            }
            out.push_str("  </groups>\n");
        }
    }
    out.push_str("</clustat>\n");
    (out, code(request, codes))
}

fn xml_group(view: &View, group: &Group, out: &mut String) {
    let owner = if group.state.is_down() { "none" } else { who(&group.owner) };
    let _ = writeln!(
        out,
        "    <group name=\"{}\" state=\"{}\" state_str=\"{}\" flags=\"{}\" flags_str=\"{}\" owner=\"{}\" last_owner=\"{}\" restarts=\"{}\" last_transition=\"{}\" last_transition_str=\"{}\"/>",
        escape(&group.name),
        group.state as u8,
        group.state.as_str(),
        group.flags,
        group.flag_words(" "),
        escape(owner),
        escape(who(&group.last_owner)),
        group.restarts,
        group.since,
        view.group_time(group)
    );
}

fn escape(text: &str) -> String {
    quick_xml::escape::escape(text).into_owned()
}

pub(super) fn main(program: &str, arguments: &[OsString]) -> u8 {
    let request = match parse(program, arguments) {
        Ok(request) => request,
        Err(early) => {
            render::line(early.out.trim_end_matches('\n'));
            return early.code;
        }
    };
    if request.version {
        render::line(&format!("{program} version {}", env!("CARGO_PKG_VERSION")));
        return 0;
    }
    block_on(run(&request)).unwrap_or_else(|error| {
        eprintln!("{error}");
        1
    })
}

async fn run(request: &Request) -> u8 {
    loop {
        let view = match look(request).await {
            Ok(view) => view,
            Err(_) if request.quorum => return 1,
            Err(error) => {
                eprintln!("Could not connect to CMAN: {error}");
                return 1;
            }
        };
        if request.quorum {
            return u8::from(!view.quorate);
        }
        if request.node_id {
            let id = view.members.iter().find(|member| member.local).map_or(0, |member| member.id);
            render::line(&format!("0x{id:08x}"));
            return 0;
        }
        let (out, code) = if request.xml { xml(&view, request) } else { text(&view, request) };
        let Some(seconds) = request.interval else {
            print(&out);
            return code;
        };
        print(&format!("{CLEAR_SCREEN}{out}"));
        tokio::select! {
            () = tokio::time::sleep(Duration::from_secs(seconds)) => {}
            _ = tokio::signal::ctrl_c() => return code,
        }
    }
}

fn print(text: &str) {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    if out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_err() {
        std::process::exit(0);
    }
}

/// How long the leader is waited for: whoever asks for the state of a cluster in trouble does not want to wait.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long a replica is looked for that says what it knows.
const STALE_PATIENCE: Duration = Duration::from_secs(4);
/// One replica's time to answer.
const ATTEMPT: Duration = Duration::from_secs(1);

/// With the leader's word there is quorum. Without a leader a replica says what it knows of the members.
async fn look(request: &Request) -> Result<View, String> {
    let cluster = cluster().map_err(|failure| failure.message)?;
    let cluster = cluster.hurried(ATTEMPT);
    let asked = tokio::time::timeout(PATIENCE, status(&cluster, request.fast)).await;
    let why = match asked {
        Ok(Ok(found)) => {
            let quorate = !request.fast || found.leader.is_some();
            return Ok(seen(&found, quorate));
        }
        Ok(Err(failure)) => failure.message,
        Err(_) => format!("no leader within {} s", PATIENCE.as_secs()),
    };
    let stale = tokio::time::timeout(STALE_PATIENCE, status(&cluster, true)).await;
    let Ok(Ok(stale)) = stale else { return Err(why) };
    // RGManager's output has no place for it.
    eprintln!("clustat: {why}; what is shown is one replica's own state, which may be old");
    Ok(seen(&stale, false))
}

fn seen(found: &v1::Status, quorate: bool) -> View {
    let local = own_node(&found.nodes).map(|node| node.name.clone());
    View::new(found, quorate, local.as_deref())
}
