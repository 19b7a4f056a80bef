//! RGManager's own resource agents: which of them can serve a service here, with their times, and what takes the place of
//! the others.
//!
//! A script leaves a service's may-run set by its agent's word that it is down, and only exit code 7 of a status is that
//! word. RGManager did not need it: it stopped everything on every node before it began, and took each non-zero status
//! for "not running". Here nothing is stopped unasked, so an agent that says 1 where its service is down would leave
//! every node under suspicion, and one that says 7 while something of it runs would start it twice.
//!
//! Source: the metadata and the status actions of the agents in resource-agents, `rgmanager/src/resources`.

/// Seconds of a `<action>` of the metadata; 0 is no limit.
pub(super) struct Times {
    pub(super) start_s: u64,
    pub(super) stop_s: u64,
    /// Depth, interval, time-out.
    pub(super) checks: &'static [(u32, u64, u64)],
}

/// What becomes of a type of resource.
pub(super) enum Fate {
    /// It says 7 where it is down, and needs nothing of cman.
    Kept {
        times: Times,
        /// ClusterLabs' agent for the same, where the hosts have RGManager's no more.
        successor: &'static str,
    },
    /// It would not be safe, or would not work without cman; and what to do.
    Refused { why: &'static str, instead: Instead },
    /// Not one of RGManager's.
    Unknown,
}

/// What takes the place of an agent that is refused.
pub(super) enum Instead {
    /// This becomes a member of the service.
    Member(&'static str),
    /// This is done.
    Otherwise(&'static str),
}

impl std::fmt::Display for Instead {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Member(what) => {
                write!(formatter, "put {what} into the service before you enable it")
            }
            Self::Otherwise(what) => formatter.write_str(what),
        }
    }
}

/// `<script>`: an init script. Its metadata has no limits, and a status each 30 s.
pub(super) const SCRIPT: Times = Times { start_s: 0, stop_s: 0, checks: &[(0, 30, 0)] };

const PID_FILE: &str = "it takes the addresses of its service from cman, and its status exits with 1 where a crash left a pid file, which is no word that it is down";
const SAYS_1: &str = "it takes the addresses of its service from cman, and its status exits with 1 where it is down, which is no word that it is";
const ORACLE: &str = "its status exits with 1 or 3 where it is down, which is no word that it is";

/// What becomes of resources of this type.
pub(super) fn fate(kind: &str) -> Fate {
    let kept = |start_s, stop_s, checks, successor| Fate::Kept {
        times: Times { start_s, stop_s, checks },
        successor,
    };
    let refused = |why, instead| Fate::Refused { why, instead };
    match kind {
        "ip" => kept(20, 20, &[(0, 20, 10), (10, 60, 20)], "heartbeat:IPaddr2"),
        "fs" => kept(900, 30, &[(0, 60, 10), (10, 30, 30), (20, 60, 30)], "heartbeat:Filesystem"),
        "netfs" => {
            kept(900, 30, &[(0, 60, 10), (10, 300, 30), (20, 600, 30)], "heartbeat:Filesystem")
        }
        "bind-mount" => kept(5, 5, &[(0, 3_600, 5)], "heartbeat:Filesystem"),
        "drbd" => kept(20, 20, &[(10, 60, 20)], "a script of your own"),
        "db2" => kept(120, 120, &[(0, 20, 60)], "heartbeat:db2"),
        "SAPInstance" => kept(180, 240, &[(0, 120, 60)], "heartbeat:SAPInstance"),
        "SAPDatabase" => kept(1_800, 1_800, &[(0, 120, 60)], "heartbeat:SAPDatabase"),
        "apache" => refused(PID_FILE, Instead::Member("the OCF agent heartbeat:apache")),
        "mysql" => refused(PID_FILE, Instead::Member("the OCF agent heartbeat:mysql")),
        "named" => refused(SAYS_1, Instead::Member("the OCF agent heartbeat:named")),
        "openldap" => refused(SAYS_1, Instead::Member("the OCF agent heartbeat:slapd")),
        "postgres-8" => refused(SAYS_1, Instead::Member("the OCF agent heartbeat:pgsql")),
        "samba" | "smb" => {
            refused(SAYS_1, Instead::Member("the systemd units of Samba, smb and nmb"))
        }
        "tomcat-5" | "tomcat-6" => {
            refused(SAYS_1, Instead::Member("the OCF agent heartbeat:tomcat"))
        }
        "oracledb" | "orainstance" | "oradg" => refused(
            ORACLE,
            Instead::Member("the OCF agents heartbeat:oracle and heartbeat:oralsnr"),
        ),
        "oralistener" => refused(ORACLE, Instead::Member("the OCF agent heartbeat:oralsnr")),
        "ASEHAagent" => refused(ORACLE, Instead::Member("the OCF agent heartbeat:sybaseASE")),
        "lvm" => refused(
            "it marks volumes with cman's name of the node, and its status switches off those that another node has",
            Instead::Member("the OCF agent heartbeat:LVM-activate"),
        ),
        "clusterfs" => refused(
            "a cluster file system is mounted on several nodes at once, and its stop leaves it mounted",
            Instead::Otherwise("mount it on every node at boot"),
        ),
        "nfsserver" => refused(
            "its status says down as soon as one of the daemons is, though the others may run",
            Instead::Member("the OCF agent heartbeat:nfsserver"),
        ),
        "nfsexport" => refused(
            "its status says only whether the NFS daemons run, on whichever node",
            Instead::Member("one of the OCF agent heartbeat:exportfs for each client"),
        ),
        "nfsclient" => refused(
            "its status asks a tool of RGManager's for the client's name, and exits with 1 without it",
            Instead::Member("one of the OCF agent heartbeat:exportfs for each client"),
        ),
        _ => Fate::Unknown,
    }
}

/// Why the init script of this name is no member of a service here.
pub(super) fn keeps_out(script: &str) -> Option<&'static str> {
    match script {
        "libvirtd" | "virtqemud" | "virtlockd" | "sanlock" | "wdmd" => Some(
            "Berth works through it, and a service that stops it or moves takes it from every VM of the host: let the boot start it",
        ),
        "libvirt-guests" => {
            Some("it stops and starts guests behind Berth's back: disable it on every host")
        }
        "cman" | "rgmanager" | "corosync" | "clvmd" | "gfs" | "gfs2" | "qdiskd" | "ricci"
        | "modclusterd" => Some(
            "it belongs to the old cluster: what is needed without that is started by the boot",
        ),
        _ => None,
    }
}
