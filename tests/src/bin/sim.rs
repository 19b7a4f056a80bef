//! The simulator: many seeds, each of which must keep the law; and each rule of the law switched off, which some seed
//! must find.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use clap::Parser;
use model::sabotage::Rule;
use tests::sim::Options;
use tests::sim::acts::Acts;
use tests::sim::crash_table::{self, Ending, Moment, Proof, Victim};
use tests::sim::drill::{self, Drill};
use tests::sim::invariant::Violation;
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
    /// The rules that `--teeth` switches off, by name; all of them when none is named.
    #[arg(long = "rule")]
    rules: Vec<String>,
    /// The crash table of migrations: each part that can die at each phase, one at a time and in all pairs.
    #[arg(long)]
    crash_table: bool,
    /// The drill of one rule, with that rule switched off, and its trace on standard output.
    #[arg(long)]
    drill: Option<String>,
    /// How much operators do: the older of the pinned seeds were found with less.
    #[arg(long, value_enum, default_value_t = Acts::All)]
    acts: Acts,
    /// Seeds run at once.
    #[arg(long, default_value_t = 2)]
    threads: usize,
}

impl Flags {
    fn options(&self, seed: u64) -> Options {
        Options { acts: self.acts, ..Options::of_seed(seed) }
    }
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
        return one(&flags, seed, rule);
    }
    if let Some(name) = &flags.drill {
        return one_drill(name, &flags);
    }
    if flags.crash_table {
        return crash_table(&flags);
    }
    if flags.teeth {
        return teeth(&flags);
    }
    let swept = sweep(&flags, rule);
    let struck: Vec<_> =
        swept.struck.iter().map(|(what, count)| format!("{what} {count}")).collect();
    println!("struck: {}", struck.join(", "));
    println!(
        "{} seeds, {} virtual hours, {:.0} seeds a second, {} violations",
        swept.seeds,
        swept.virtual_ms / 3_600_000,
        swept.seeds as f64 / swept.seconds,
        swept.violations.len()
    );
    let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
    for violation in swept.violations.iter().filter_map(|report| report.violation.as_ref()) {
        *kinds.entry(violation.invariant).or_default() += 1;
    }
    for (invariant, count) in kinds {
        println!("broken: {invariant} {count}");
    }
    let again = match flags.acts {
        Acts::Few => " --acts few",
        Acts::Many => " --acts many",
        Acts::All => "",
    };
    for report in swept.violations.iter().take(200) {
        if let Some(violation) = &report.violation {
            println!(
                "seed {}: {} at {} ms: {}\n  again: cargo run --release -p tests --bin sim -- --seed {}{}{}",
                report.seed,
                violation.invariant,
                violation.at,
                violation.what,
                report.seed,
                again,
                rule.map(|rule| format!(" --sabotage {}", rule.as_str())).unwrap_or_default()
            );
        }
    }
    match swept.violations.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

fn one(flags: &Flags, seed: u64, rule: Option<Rule>) -> ExitCode {
    let verbose = flags.verbose;
    let trace = if verbose { Trace::verbose() } else { Trace::kept() };
    if verbose {
        let filter = tracing_subscriber::EnvFilter::from_env("BERTH_LOG");
        tracing_subscriber::fmt().with_env_filter(filter).without_time().init();
    }
    let (report, world) = run(&flags.options(seed), rule, trace);
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
            if verbose {
                let truth = world.truth();
                truth.vms.values().for_each(|it| println!("{it:#?}"));
                truth.services.values().for_each(|it| println!("{it:#?}"));
            }
            ExitCode::FAILURE
        }
    }
}

struct Swept {
    seeds: u64,
    seconds: f64,
    virtual_ms: u64,
    struck: BTreeMap<&'static str, u64>,
    violations: Vec<Report>,
}

fn sweep(flags: &Flags, rule: Option<Rule>) -> Swept {
    let next = AtomicU64::new(flags.from);
    let end = flags.from + flags.seeds;
    let done = AtomicU64::new(0);
    let virtual_ms = AtomicU64::new(0);
    let violations = Mutex::new(Vec::new());
    let struck: Mutex<BTreeMap<&'static str, u64>> = Mutex::default();
    let began = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..flags.threads.max(1) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        return;
                    }
                    let (report, _) = run(&flags.options(seed), rule, Trace::default());
                    done.fetch_add(1, Ordering::Relaxed);
                    virtual_ms.fetch_add(report.lasted_ms, Ordering::Relaxed);
                    if let Ok(mut struck) = struck.lock() {
                        for (what, count) in &report.struck {
                            *struck.entry(*what).or_default() += count;
                        }
                    }
                    if report.violation.is_some()
                        && let Ok(mut violations) = violations.lock()
                    {
                        violations.push(report);
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
        struck: struck.into_inner().unwrap_or_default(),
        violations,
    }
}

fn teeth(flags: &Flags) -> ExitCode {
    let rules: Vec<Rule> = match flags.rules.is_empty() {
        true => Rule::ALL.to_vec(),
        false => flags.rules.iter().filter_map(|name| Rule::parse(name)).collect(),
    };
    let mut toothless = Vec::new();
    println!(
        "{:<28} {:>6} {:>8} {:>10}  {:<14} found by",
        "RULE SWITCHED OFF", "SEEDS", "FOUND IN", "FIRST SEED", "DRILL"
    );
    for rule in rules {
        let swept = sweep(flags, Some(rule));
        let mut by: BTreeMap<&str, usize> = BTreeMap::new();
        for violation in swept.violations.iter().filter_map(|report| report.violation.as_ref()) {
            *by.entry(violation.invariant).or_default() += 1;
        }
        let by: Vec<_> = by.iter().map(|(name, count)| format!("{name} {count}")).collect();
        let drilled = drill::of(rule).map(|drill| drilled(drill, flags.from));
        println!(
            "{:<28} {:>6} {:>8} {:>10}  {:<14} {}",
            rule.as_str(),
            swept.seeds,
            swept.violations.len(),
            swept.violations.first().map_or("-".to_owned(), |report| report.seed.to_string()),
            drilled.as_ref().map_or("-", |drilled| match drilled {
                Ok(_) => "finds it",
                Err(_) => "DOES NOT",
            }),
            by.join(", ")
        );
        let finds = matches!(drilled, Some(Ok(_)));
        match drilled {
            Some(Ok(violation)) => println!("{:<28} drill: {}", "", violation.what),
            Some(Err(why)) => println!("{:<28} drill: {why}", ""),
            None => {}
        }
        if swept.violations.is_empty() && !finds {
            toothless.push(rule.as_str());
        }
    }
    if toothless.is_empty() {
        return ExitCode::SUCCESS;
    }
    println!("never found: {}", toothless.join(", "));
    ExitCode::FAILURE
}

/// What a drill breaks while its rule is off, unless it breaks something while the rule is on.
fn drilled(drill: &Drill, seed: u64) -> Result<Violation, String> {
    if let (Some(violation), _) = drill.play(seed, None, false) {
        return Err(format!("all rules on, and yet {}: {}", violation.invariant, violation.what));
    }
    let (found, _) = drill.play(seed, Some(drill.rule), false);
    found.ok_or_else(|| "nothing is broken while its rule is off".to_owned())
}

fn one_drill(name: &str, flags: &Flags) -> ExitCode {
    let Some(drill) = Rule::parse(name).and_then(drill::of) else {
        let known: Vec<_> = drill::ALL.iter().map(|drill| drill.rule.as_str()).collect();
        eprintln!("no drill is named {name}; there are {}", known.join(", "));
        return ExitCode::from(2);
    };
    let sabotage = flags.sabotage.as_deref().and_then(Rule::parse);
    let (violation, world) = drill.play(flags.from, sabotage, true);
    for line in world.trace.lines() {
        println!("{}", line.json());
    }
    match violation {
        None => {
            println!("nothing is broken");
            ExitCode::SUCCESS
        }
        Some(violation) => {
            println!("{} at {} ms: {}", violation.invariant, violation.at, violation.what);
            ExitCode::FAILURE
        }
    }
}

fn crash_table(flags: &Flags) -> ExitCode {
    let mut failures = Vec::new();
    for (proof, title) in [
        (Proof::Fence, "One death, fence devices and leases"),
        (Proof::Lease, "One death, leases only"),
    ] {
        println!("{title}: what becomes of the VM, and for how long it runs nowhere\n");
        print!("{:<16}", "DIES AT");
        for moment in Moment::ALL {
            print!(" {:<22}", moment.as_str());
        }
        println!();
        for victim in Victim::ALL {
            print!("{:<16}", victim.as_str());
            for moment in Moment::ALL {
                let deaths = [(victim, moment)];
                let cell = match crash_table::run(flags.from, proof, &deaths, false).0 {
                    Ok(ending) => format!("{} {} ms", ending.as_str(), ending.gap_ms),
                    Err(why) => {
                        failures.push(format!("{proof:?} {deaths:?}: {why}"));
                        "NOT WELL".to_owned()
                    }
                };
                print!(" {cell:<22}");
            }
            println!();
        }
        println!();
    }
    for proof in [Proof::Fence, Proof::Lease] {
        let mut endings: BTreeMap<(Victim, Victim), Vec<Ending>> = BTreeMap::new();
        let pairs = crash_table::pairs();
        for deaths in &pairs {
            let [(one, _), (other, _)] = *deaths;
            match crash_table::run(flags.from, proof, deaths, false).0 {
                Ok(ending) => endings.entry((one, other)).or_default().push(ending),
                Err(why) => failures.push(format!("{proof:?} {deaths:?}: {why}")),
            }
        }
        println!(
            "All {} pairs of deaths, {proof:?}: well, and stayed / moved / started anew, longest gap",
            pairs.len()
        );
        for ((one, other), endings) in &endings {
            let count = |word: &str| endings.iter().filter(|it| it.as_str() == word).count();
            let longest = endings.iter().map(|ending| ending.gap_ms).max().unwrap_or(0);
            println!(
                "{:<16} {:<16} {:>3} of 25 well   {:>2} / {:>2} / {:>2}   {longest} ms",
                one.as_str(),
                other.as_str(),
                endings.len(),
                count("stayed"),
                count("moved"),
                count("started anew"),
            );
        }
        println!();
    }
    for failure in &failures {
        println!("NOT WELL: {failure}");
    }
    println!("{} not well", failures.len());
    match failures.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}
