//! Which seed finds a rule switched off, for those rules that chance finds often enough to need no drill.

use model::sabotage::Rule;

use super::Options;
use super::sweep::run;
use super::trace::Trace;

/// How many seeds are tried at the most; a rule that is found in one of a hundred is missed by so many in one of four
/// hundred.
pub const MOST: u64 = 600;

/// Seeds that found a rule when this was written: where to look first. Any change of what happens in a seed makes a hint a
/// stale one, which costs the search and nothing else.
const HINTS: &[(Rule, u64)] = &[
    (Rule::TargetInSet, 45),
    (Rule::LostIsNotRestarted, 26),
    (Rule::ResumeSameGeneration, 4),
    (Rule::LedgerFloor, 3),
    (Rule::LedgerOnce, 302),
    (Rule::ProcessCounts, 58),
];

/// The same of rules that only matter when operators do many things.
const HINTS_OF_MANY_ACTS: &[(Rule, u64)] = &[
    (Rule::FrozenIsLeftAlone, 7),
    (Rule::LockHoldsStarts, 1),
    (Rule::PauseHoldsAll, 8),
    (Rule::ClaimHoldsStart, 5),
    (Rule::ServiceMayRunRefusal, 1),
    (Rule::StoppedScriptIsAsked, 9),
];

/// The first seed that breaks something while the rule is off: the hint, or one of the first so many.
pub fn first_found(rule: Rule, most: u64) -> Option<Options> {
    let of =
        |hints: &[(Rule, u64)]| hints.iter().find(|(of, _)| *of == rule).map(|(_, seed)| *seed);
    let more = of(HINTS_OF_MANY_ACTS);
    let options: fn(u64) -> Options = match more {
        Some(_) => Options::with_many_acts,
        None => Options::with_few_acts,
    };
    let seeds = more.or(of(HINTS)).into_iter().chain(1..=most);
    seeds.map(options).find(|options| {
        let (report, _) = run(options, Some(rule), Trace::default());
        report.violation.is_some()
    })
}
