//! Short runs of what `make faults` does at length.

use anyhow::Result;
use tests::faults::crash_table::{Moment, Stage, Victim, singles};
use tests::faults::random;
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

#[test]
fn a_few_random_faults_give_no_disk_two_writers_and_leave_every_vm_up() -> Result<()> {
    if !enter_test("faults::a_few_random_faults_give_no_disk_two_writers_and_leave_every_vm_up")? {
        return Ok(());
    }
    random::run(20_261_125, 6, 4).map(drop)
}
