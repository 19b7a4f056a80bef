//! The simulator: many seeds, each of which must keep the law; and each rule of the law switched off, which some seed
//! must find.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use clap::Parser;
use model::sabotage::Rule;
use tests::sim::Options;
use tests::sim::sweep::{Report, run};
use tests::sim::trace::Trace;

/// Runs Berth in virtual time, with faults, and looks whether the law holds.
#[derive(Debug, Parser)]
struct Flags {
    /// How many seeds.
    #[arg(long, default_value_t = 200)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// One seed only, with its trace on standard output.
    #[arg(long)]
    seed: Option<u64>,
    /// With that one seed: every call and answer too.
    #[arg(long)]
    verbose: bool,
    /// Switch one rule off.
    #[arg(long)]
    sabotage: Option<String>,
    /// Switch each rule off in turn: for every one some seed has to find a violation.
    #[arg(long)]
    teeth: bool,
    /// Seeds run at once.
    #[arg(long, default_value_t = 2)]
    threads: usize,
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    let rule = match flags.sabotage.as_deref().map(|name| (name, Rule::parse(name))) {
        Some((name, None)) => {
            let known: Vec<_> = Rule::ALL.iter().map(|rule| rule.as_str()).collect();
            eprintln!("no rule is named {name}; there are {}", known.join(", "));
            return ExitCode::from(2);
        }
        Some((_, rule)) => rule,
        None => None,
    };
    if let Some(seed) = flags.seed {
        return one(seed, rule, flags.verbose);
    }
    if flags.teeth {
        return teeth(&flags);
    }
    let swept = sweep(&flags, rule, false);
    println!(
        "{} seeds, {} virtual hours, {:.0} seeds a second, {} violations",
        swept.seeds,
        swept.virtual_ms / 3_600_000,
        swept.seeds as f64 / swept.seconds,
        swept.violations.len()
    );
    for report in swept.violations.iter().take(20) {
        if let Some(violation) = &report.violation {
            println!(
                "seed {}: {} at {} ms: {}\n  again: cargo run --release -p tests --bin sim -- --seed {}{}",
                report.seed,
                violation.invariant,
                violation.at,
                violation.what,
                report.seed,
                rule.map(|rule| format!(" --sabotage {}", rule.as_str())).unwrap_or_default()
            );
        }
    }
    match swept.violations.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

fn one(seed: u64, rule: Option<Rule>, verbose: bool) -> ExitCode {
    let trace = if verbose { Trace::verbose() } else { Trace::kept() };
    if verbose {
        let filter = tracing_subscriber::EnvFilter::from_env("BERTH_LOG");
        tracing_subscriber::fmt().with_env_filter(filter).without_time().init();
    }
    let (report, world) = run(&Options::of_seed(seed), rule, trace);
    for line in world.trace.lines() {
        println!("{}", line.json());
    }
    println!(
        "{} commands, {} steps, {} virtual ms",
        report.commands, report.steps, report.lasted_ms
    );
    match report.violation {
        None => ExitCode::SUCCESS,
        Some(violation) => {
            println!("{} at {} ms: {}", violation.invariant, violation.at, violation.what);
            for event in world.truth().events.iter().rev().take(40).collect::<Vec<_>>().iter().rev()
            {
                println!("{:>6} {:>8} {}", event.revision, event.at.0 % 1_000_000_000, event.text);
            }
            ExitCode::FAILURE
        }
    }
}

struct Swept {
    seeds: u64,
    seconds: f64,
    virtual_ms: u64,
    violations: Vec<Report>,
}

fn sweep(flags: &Flags, rule: Option<Rule>, until_found: bool) -> Swept {
    let next = AtomicU64::new(flags.from);
    let end = flags.from + flags.seeds;
    let found = AtomicBool::new(false);
    let done = AtomicU64::new(0);
    let virtual_ms = AtomicU64::new(0);
    let violations = Mutex::new(Vec::new());
    let began = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..flags.threads.max(1) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end || (until_found && found.load(Ordering::Relaxed)) {
                        return;
                    }
                    let (report, _) = run(&Options::of_seed(seed), rule, Trace::default());
                    done.fetch_add(1, Ordering::Relaxed);
                    virtual_ms.fetch_add(report.lasted_ms, Ordering::Relaxed);
                    if report.violation.is_some() {
                        found.store(true, Ordering::Relaxed);
                        if let Ok(mut violations) = violations.lock() {
                            violations.push(report);
                        }
                    }
                }
            });
        }
    });
    let mut violations = violations.into_inner().unwrap_or_default();
    violations.sort_by_key(|report: &Report| report.seed);
    Swept {
        seeds: done.into_inner(),
        seconds: began.elapsed().as_secs_f64(),
        virtual_ms: virtual_ms.into_inner(),
        violations,
    }
}

fn teeth(flags: &Flags) -> ExitCode {
    let mut toothless = Vec::new();
    println!("{:<30} {:>6} {:>8}  first found by", "RULE SWITCHED OFF", "SEEDS", "FOUND IN");
    for rule in Rule::ALL {
        let swept = sweep(flags, Some(*rule), false);
        let mut by: BTreeMap<&str, usize> = BTreeMap::new();
        for violation in swept.violations.iter().filter_map(|report| report.violation.as_ref()) {
            *by.entry(violation.invariant).or_default() += 1;
        }
        let by: Vec<_> = by.iter().map(|(name, count)| format!("{name} {count}")).collect();
        println!(
            "{:<30} {:>6} {:>8}  {}",
            rule.as_str(),
            swept.seeds,
            swept.violations.len(),
            by.join(", ")
        );
        if swept.violations.is_empty() {
            toothless.push(rule.as_str());
        }
    }
    if toothless.is_empty() {
        return ExitCode::SUCCESS;
    }
    println!("never found: {}", toothless.join(", "));
    ExitCode::FAILURE
}
