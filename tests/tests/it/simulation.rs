//! The law in virtual time: a fixed number of seeds, the rules' teeth, the crash table, the project's own stories, and that
//! nothing but the seed decides.

use model::sabotage::Rule;
use tests::scenario::{file, needs, play};
use tests::sim::Options;
use tests::sim::crash_table::{self, Death, Proof};
use tests::sim::sweep::run;
use tests::sim::trace::Trace;
use tests::sim::{drill, teeth};

/// A release build of the `sim` program runs hundreds of thousands.
const SEEDS: std::ops::Range<u64> = 1..61;

#[test]
fn no_seed_breaks_the_law_and_each_comes_to_rest() {
    for seed in SEEDS {
        let (report, _) = run(&Options::of_seed(seed), None, Trace::default());
        if let Some(violation) = report.violation {
            panic!(
                "seed {seed}: {} at {} ms: {}; again: cargo run --release -p tests --bin sim -- --seed {seed}",
                violation.invariant, violation.at, violation.what
            );
        }
        assert!(report.commands > 20, "seed {seed} did nothing");
    }
}

/// Seeds that once found something, with operators who did less than they do now, in the product or in the simulator: a guest that arrives where libvirt is slow to say
/// so, a start and a resume that come long after they were asked for, a hold that was counted from the wrong settings, an
/// operator's word that is overtaken, a migration to a host that was started again meanwhile, a copy that somebody paused
/// where a start had failed before, a hold that ended while libvirt was away or that another policy made begin anew.
const FOUND: [u64; 33] = [
    3205, 3273, 4103, 5017, 5607, 7508, 7619, 8991, 9960, 12577, 13270, 13474, 15152, 15262, 15745,
    16338, 19233, 20700, 21481, 21543, 21639, 24591, 3031066, 3033335, 3056415, 3058991, 3064438,
    3076012, 3092028, 4055970, 5030040, 5054863, 5088259,
];

#[test]
fn what_a_seed_has_found_once_stays_mended() {
    for seed in FOUND {
        let (report, _) = run(&Options::with_few_acts(seed), None, Trace::default());
        assert!(report.violation.is_none(), "seed {seed}: {:?}", report.violation);
    }
}

/// Seeds that found something since operators do much more than one by one: services that went round and round or waited without end,
/// decisions that filled the log, scripts that a lost ledger or a restored control plane did not know of.
const FOUND_BY_MANY_ACTS: [u64; 16] =
    [38, 84, 97, 101, 184, 226, 247, 449, 771, 775, 935, 1066, 1877, 8000464, 8000601, 8004550];

#[test]
fn what_a_seed_with_many_acts_has_found_stays_mended() {
    for seed in FOUND_BY_MANY_ACTS {
        let (report, _) = run(&Options::with_many_acts(seed), None, Trace::default());
        assert!(report.violation.is_none(), "seed {seed}: {:?}", report.violation);
    }
}

/// Seeds that found something since operators change settings and every policy too: what is exclusive and is kept with what makes
/// room for it, or needs it; a lease from before a change of settings that outlasted its proof; moves of what is frozen.
const FOUND_BY_RARE_ACTS: [u64; 20] = [
    456, 678, 1008, 1345, 1429, 1980, 3495, 3833, 11005494, 11011319, 11014777, 11016655, 12001105,
    12019165, 12039967, 12049531, 12089277, 15026452, 15043566, 15089733,
];

#[test]
fn what_a_seed_with_rare_acts_has_found_stays_mended() {
    for seed in FOUND_BY_RARE_ACTS {
        let (report, _) = run(&Options::of_seed(seed), None, Trace::default());
        assert!(report.violation.is_none(), "seed {seed}: {:?}", report.violation);
    }
}

#[test]
fn a_seed_decides_everything() {
    let lines = || {
        let (_, world) = run(&Options::of_seed(7), None, Trace::kept());
        world.trace.lines().iter().map(|line| line.json()).collect::<Vec<_>>()
    };
    assert_eq!(lines(), lines());
}

#[test]
fn a_drill_finds_its_rule_switched_off_and_nothing_else() {
    for drill in drill::ALL {
        let name = drill.rule.as_str();
        let (broken, _) = drill.play(1, None, false);
        assert!(broken.is_none(), "{name}, all rules on: {broken:?}");
        let (found, _) = drill.play(1, Some(drill.rule), false);
        assert!(found.is_some(), "{name} has lost its teeth: without it nothing is broken");
    }
}

#[test]
fn every_rule_that_has_no_drill_is_found_switched_off_by_a_seed() {
    for rule in Rule::ALL.iter().copied().filter(|rule| drill::of(*rule).is_none()) {
        let name = rule.as_str();
        let found = teeth::first_found(rule, teeth::MOST);
        let found = found.unwrap_or_else(|| {
            panic!("{name} has lost its teeth, or its seed is another now: cargo run --release -p tests --bin sim -- --teeth --rule {name} --seeds 3000")
        });
        let (report, _) = run(&found, None, Trace::default());
        assert!(
            report.violation.is_none(),
            "seed {}, all rules on: {:?}",
            found.seed,
            report.violation
        );
    }
}

fn ends_well(proof: Proof, deaths: &[Death]) {
    if let (Err(why), _) = crash_table::run(1, proof, deaths, false) {
        panic!("{proof:?}, {deaths:?}: {why}");
    }
}

#[test]
fn a_migration_ends_well_whatever_dies_at_whatever_moment() {
    for death in crash_table::singles() {
        ends_well(Proof::Fence, &[death]);
        ends_well(Proof::Lease, &[death]);
    }
}

#[test]
fn a_migration_ends_well_whichever_two_die_in_one_moment() {
    let pairs = crash_table::pairs();
    assert_eq!(pairs.len(), 700);
    // The program runs all of them, both ways.
    let in_one_moment = pairs.iter().filter(|[(_, one), (_, other)]| one == other);
    for (number, deaths) in in_one_moment.enumerate() {
        let proof = if number % 2 == 0 { Proof::Fence } else { Proof::Lease };
        ends_well(proof, deaths);
    }
}

#[test]
fn every_story_of_the_project_comes_to_what_it_expects() {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/scenarios");
    let mut told = 0;
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let scenario =
            file::parse(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert_eq!(needs::missing(&scenario), Vec::<String>::new(), "{}", path.display());
        let played = play::play(&scenario, 1).unwrap();
        assert_eq!(played.broken, Vec::<String>::new(), "{}", path.display());
        assert!(scenario.expect.is_some(), "{} expects nothing", path.display());
        told += 1;
    }
    assert!(told > 0);
}

/// What the second table's column says of one row.
fn cells(line: &str) -> Vec<&str> {
    line.trim_matches('|').split('|').map(str::trim).collect()
}

#[test]
fn every_row_of_the_failure_modes_names_a_story_that_is_there_or_what_shows_it_instead() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let text = std::fs::read_to_string(format!("{root}/docs/failure-modes.md")).unwrap();
    let (mut column, mut rows, mut told) = (None, 0, std::collections::BTreeSet::new());
    for line in text.lines() {
        if !line.starts_with('|') {
            column = None;
            continue;
        }
        let cells = cells(line);
        if let Some(found) = cells.iter().position(|cell| *cell == "scenario") {
            column = Some(found);
            continue;
        }
        let Some(column) = column.filter(|_| !line.starts_with("| ---")) else { continue };
        rows += 1;
        let names: Vec<&str> = cells[column].split('`').skip(1).step_by(2).collect();
        for name in &names {
            let path = format!("{root}/tests/scenarios/{name}.yaml");
            assert!(
                std::path::Path::new(&path).is_file(),
                "{}: there is no story {name}",
                cells[0]
            );
            told.insert((*name).to_owned());
        }
        // What the format has no word for, as a clock, is shown otherwise.
        let otherwise = cells[column + 1..].iter().any(|cell| !matches!(*cell, "" | "–"));
        assert!(!names.is_empty() || otherwise, "{}: nothing shows it", cells[0]);
    }
    assert!(rows > 40 && told.len() > 20, "{rows} rows, {} stories", told.len());
}
