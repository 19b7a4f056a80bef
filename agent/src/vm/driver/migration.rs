//! A migration under way: how far it is, and when its guest is to run on at the target.

use proto::v1;
use tracing::{info, warn};

use super::{Driver, Purpose, Scene, Seen};
use crate::hypervisor::call::Call;
use crate::hypervisor::{JobStats, Result as Called};

impl Driver {
    pub(super) fn sampled(&mut self, scene: &mut Scene<'_>, stats: JobStats) {
        let Some(work) = &self.work else { return };
        let order = work.order.id;
        // It was called off before there was a job to abort: while the target was asked, perhaps.
        if work.is_called_off() && !self.calling(|it| *it == Purpose::Abort) {
            self.call(scene, Call::AbortJob, Purpose::Abort);
        }
        self.job = Some((order, stats));
        if stats.total_bytes > 0 && self.told_copying.replace(order) != Some(order) {
            self.send_step(scene, order, false);
        }
    }

    /// After the first pass a guest that may runs on at the target.
    pub(crate) fn pass(&mut self, scene: &mut Scene<'_>, number: u32) {
        let Some(work) = self.work.as_ref().filter(|work| work.wants_post_copy()) else { return };
        let order = work.order.id;
        let asked = |it: &Purpose| *it == Purpose::PostCopy;
        if number > 1 && self.post_copy != Some(order) && !self.calling(asked) {
            self.call(scene, Call::StartPostCopy, Purpose::PostCopy);
        }
    }

    /// From here on the guest is never resumed at the source: libvirt shows what is left there as leaving, and the log is
    /// told.
    pub(super) fn post_copy_answered(&mut self, scene: &mut Scene<'_>, answer: Called<Seen>) {
        let Some(order) = self.work.as_ref().map(|work| work.order.id) else { return };
        match answer {
            Ok(_) => {
                info!(uuid = %self.uuid, order, "the guest runs on at the target");
                self.post_copy = Some(order);
                self.send_step(scene, order, true);
            }
            // The next pass tries again.
            Err(error) => warn!(uuid = %self.uuid, order, %error, "no post-copy yet"),
        }
    }

    fn send_step(&self, scene: &mut Scene<'_>, order: u64, post_copy: bool) {
        let step = v1::MigrationStep { uuid: self.uuid.to_string(), order, post_copy };
        scene.reports.push(v1::Report { report: Some(v1::report::Report::Migration(step)) });
    }
}
