//! The law in virtual time: a fixed number of seeds, the project's own stories, and that nothing but the seed decides.

use tests::scenario::{file, needs, play};
use tests::sim::Options;
use tests::sim::sweep::run;
use tests::sim::trace::Trace;

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

#[test]
fn a_seed_decides_everything() {
    let lines = || {
        let (_, world) = run(&Options::of_seed(7), None, Trace::kept());
        world.trace.lines().iter().map(|line| line.json()).collect::<Vec<_>>()
    };
    assert_eq!(lines(), lines());
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
        assert_eq!(needs::missing(&scenario).unwrap(), Vec::<String>::new(), "{}", path.display());
        let played = play::play(&scenario, 1).unwrap();
        assert_eq!(played.broken, Vec::<String>::new(), "{}", path.display());
        assert!(scenario.expect.is_some(), "{} expects nothing", path.display());
        told += 1;
    }
    assert!(told > 0);
}
