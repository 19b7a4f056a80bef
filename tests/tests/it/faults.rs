//! Short runs of what `make faults` does at length.

use anyhow::Result;
use tests::faults::crash_table::{Moment, Stage, Victim, singles};
use tests::lab::enter_test;

#[test]
fn who_dies_during_a_migration_leaves_one_running_guest() -> Result<()> {
    if !enter_test("faults::who_dies_during_a_migration_leaves_one_running_guest")? {
        return Ok(());
    }
    let mut stage = Stage::boot()?;
    let pairs = [
        vec![Victim::SourceHost, Victim::Leader],
        vec![Victim::SourceAgent, Victim::TargetAgent],
        vec![Victim::SourceLibvirtd, Victim::TargetLibvirtd],
    ];
    for victims in singles().into_iter().chain(pairs) {
        let outcome = stage.row(&victims, Moment::Copying)?;
        println!("{victims:?}: {} after {:.1} s", outcome.what, outcome.took.as_secs_f64());
    }
    Ok(())
}
