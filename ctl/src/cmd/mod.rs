//! One file for each family of commands.

mod adopt;
mod backup;
mod events;
mod explain;
mod failover_domain;
mod fence;
mod fleet;
mod handling;
mod hold;
mod import;
mod node;
mod operation;
mod placing;
mod replica;
mod service;
mod settings;
mod status;
mod vm;

use clap::CommandFactory;

use crate::args::{Arguments, Command};
use crate::client::Cluster;
use crate::config;
use crate::exit::Failure;

/// What a command works with.
pub(crate) struct Context {
    pub(crate) cluster: Cluster,
    pub(crate) json: bool,
    pub(crate) no_wait: bool,
}

/// Carries out the command line.
pub async fn run(arguments: Arguments) -> Result<(), Failure> {
    let arguments = config::complete(arguments)?;
    let context = Context {
        cluster: Cluster::new(&arguments)?,
        json: arguments.json,
        no_wait: arguments.no_wait,
    };
    let cx = &context;
    if let Some((service, ask)) = service::asked(&arguments.command)? {
        return service::ask(cx, service, ask).await;
    }
    match plain_vm(arguments.command) {
        Command::Status { stale, check } => status::run(cx, stale, check).await,
        Command::Explain { vm } if service::named(&vm).is_some() => {
            service::explain(cx, service::named(&vm).unwrap_or_default()).await
        }
        Command::Service(command) => service::run(cx, command).await,
        Command::Explain { vm } => explain::run(cx, &vm).await,
        Command::Vm(command) => vm::run(cx, *command).await,
        Command::Node(command) => node::run(cx, command).await,
        Command::Rule(command) => placing::rule(cx, command).await,
        Command::Pause(pause) => placing::pause(cx, pause).await,
        Command::Unpause => placing::unpause(cx).await,
        Command::FailoverDomain(command) => failover_domain::run(cx, command).await,
        Command::Events { follow, after, vm, node, stale } => {
            events::run(cx, follow, stale, after, vm, node).await
        }
        Command::Fence(command) => fence::run(cx, command).await,
        Command::Settings(command) => settings::run(cx, command).await,
        Command::Backup { file } => backup::backup(cx, &file).await,
        Command::Restore { file, members } => backup::restore(cx, &file, members).await,
        Command::Import { file, dry_run, output, root, libvirt } => {
            let below = import::Where { root: &root, libvirt: &libvirt };
            import::run(cx, &file, below, (!dry_run).then_some(output.as_path()))
        }
        Command::Adopt(adopt) => adopt::run(cx, &adopt).await,
        Command::Apply { file, dry_run, yes } => fleet::apply(cx, &file, dry_run, yes).await,
        Command::Diff { file, exit_code } => fleet::diff(cx, &file, exit_code).await,
        Command::Export { xml_dir } => fleet::export(cx, xml_dir.as_deref()).await,
        Command::Replica(command) => replica::run(cx, command).await,
        Command::Completions { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "berthctl", &mut text);
            crate::render::line(String::from_utf8_lossy(&text).trim_end());
            Ok(())
        }
        Command::Freeze { vm, reason, span } => hold::freeze(cx, vm, reason, span).await,
        Command::Unfreeze { vm } => hold::unfreeze(cx, vm).await,
        Command::Lock { reason } => hold::lock(cx, reason).await,
        Command::Unlock => hold::unlock(cx).await,
        Command::Convalesce { vm } => hold::convalesce(cx, vm).await,
        operation => operation::run(cx, operation).await,
    }
}

/// `vm:NAME` is the VM of that name.
fn plain_vm(mut command: Command) -> Command {
    let name = match &mut command {
        Command::Enable { vm, .. }
        | Command::Disable { vm }
        | Command::Stop { vm, .. }
        | Command::Restart { vm }
        | Command::Relocate { vm, .. }
        | Command::Migrate { vm, .. }
        | Command::Freeze { vm, .. }
        | Command::Unfreeze { vm }
        | Command::Convalesce { vm }
        | Command::Cancel { vm }
        | Command::Resolve { vm, .. }
        | Command::Explain { vm } => vm,
        _ => return command,
    };
    if let Some(plain) = name.strip_prefix("vm:") {
        *name = plain.to_owned();
    }
    command
}
