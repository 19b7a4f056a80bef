//! `berthctl`: arguments, dispatch, exit code.

use std::process::ExitCode;

use clap::Parser;
use ctl::args::Arguments;

fn main() -> ExitCode {
    // Symbolic links by these names do what RGManager's tools did.
    if let Some(code) = ctl::rgmanager::main() {
        return code;
    }
    let arguments = Arguments::parse();
    let json = arguments.json;
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            return ctl::exit::Failure::internal(format!("no runtime: {error}")).report(json);
        }
    };
    match runtime.block_on(ctl::cmd::run(arguments)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(json),
    }
}
