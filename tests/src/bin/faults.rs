//! `make faults`: the law on real libvirt and QEMU while things break, longer than the tests do it.
//!
//! ```text
//!  faults random [--faults 30] [--guests 8] [--seed N]
//!  faults crash-table [--pairs]
//! ```

use anyhow::Result;
use clap::{Parser, Subcommand};
use tests::faults::crash_table::{Moment, Stage, pairs, singles};
use tests::faults::random;
use tests::lab;

#[derive(Debug, Parser)]
struct Flags {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Faults by chance on four hosts and three replicas.
    Random {
        /// How many.
        #[arg(long, default_value_t = 30)]
        faults: usize,
        /// Guests whose disks are watched.
        #[arg(long, default_value_t = 8)]
        guests: usize,
        /// What chance is made of; without it a new one, which is printed.
        #[arg(long)]
        seed: Option<u64>,
    },
    /// Deaths during a migration.
    CrashTable {
        /// In pairs too.
        #[arg(long)]
        pairs: bool,
    },
}

fn main() -> Result<()> {
    let flags = Flags::parse();
    lab::enter()?;
    match flags.what {
        What::Random { faults, guests, seed } => {
            let seed = seed.unwrap_or_else(|| fastrand::u64(..1_000_000));
            let verdict = random::run(seed, faults, guests)?;
            println!(
                "seed {seed}: {faults} faults, {} migrations begun, {} counts on {guests} disks, none of a stranger; every VM up {:.1} s after the last fault",
                verdict.migrations,
                verdict.counted,
                verdict.settled_after.as_secs_f64()
            );
            Ok(())
        }
        What::CrashTable { pairs } => crash_table(pairs),
    }
}

fn crash_table(with_pairs: bool) -> Result<()> {
    let mut stage = Stage::boot()?;
    println!("| who dies | when | what came of it | after |\n| --- | --- | --- | --- |");
    let mut rows: Vec<_> = singles().into_iter().map(|row| (row, Moment::Copying)).collect();
    // About the handover, a little earlier and a little later.
    for (number, row) in singles().into_iter().enumerate() {
        rows.push((row, Moment::Ending(40 * (number as u64 % 5))));
    }
    if with_pairs {
        rows.extend(pairs().into_iter().map(|row| (row, Moment::Copying)));
    }
    for (victims, moment) in rows {
        let names: Vec<String> = victims.iter().map(ToString::to_string).collect();
        let outcome = stage.row(&victims, moment)?;
        println!(
            "| {} | {moment} | {} | {:.1} s |",
            names.join(" and "),
            outcome.what,
            outcome.took.as_secs_f64()
        );
    }
    Ok(())
}
