//! Through the trait, with a device that behaves like the kernel's `watchdog_dev.c`.

use std::sync::{Arc, Mutex, MutexGuard};

use super::*;

/// What the kernel knows of a device; it outlives its being open.
#[derive(Debug, Clone)]
struct Kernel {
    options: u32,
    /// The time-outs that it can be set to.
    settable: std::ops::RangeInclusive<c_int>,
    /// Where it cannot be set at all.
    fixed: bool,
    timeout_s: c_int,
    nowayout: bool,
    running: bool,
    feeds: u32,
    released: bool,
}

/// A device that is open; closed when it is dropped.
struct Fake(Arc<Mutex<Kernel>>);

impl Fake {
    fn kernel(&self) -> MutexGuard<'_, Kernel> {
        self.0.lock().unwrap()
    }
}

impl Device for Fake {
    fn support(&self) -> io::Result<Support> {
        Ok(Support { options: self.kernel().options, identity: "Fake Watchdog".into() })
    }

    fn set_timeout_s(&self, timeout_s: c_int) -> io::Result<()> {
        let mut kernel = self.kernel();
        if kernel.fixed {
            return Err(io::Error::from_raw_os_error(nix::libc::EOPNOTSUPP));
        }
        if timeout_s < *kernel.settable.start() {
            return Err(io::Error::from_raw_os_error(nix::libc::EINVAL));
        }
        kernel.timeout_s = timeout_s.min(*kernel.settable.end());
        kernel.feeds += 1;
        Ok(())
    }

    fn timeout_s(&self) -> io::Result<c_int> {
        match self.kernel().timeout_s {
            0 => Err(io::Error::from_raw_os_error(nix::libc::EOPNOTSUPP)),
            timeout_s => Ok(timeout_s),
        }
    }

    fn write(&mut self, byte: u8) -> io::Result<()> {
        let mut kernel = self.kernel();
        kernel.released = byte == b'V';
        kernel.feeds += 1;
        Ok(())
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        let mut kernel = self.kernel();
        let stops = kernel.released || kernel.options & OPTION_MAGIC_CLOSE == 0;
        kernel.running = !stops || kernel.nowayout;
        kernel.released = false;
        kernel.feeds += u32::from(kernel.running);
    }
}

/// As softdog is when it was loaded.
fn softdog() -> Kernel {
    Kernel {
        options: OPTION_MAGIC_CLOSE | 0x8080,
        settable: 1..=65_535,
        fixed: false,
        timeout_s: 60,
        nowayout: false,
        running: false,
        feeds: 0,
        released: false,
    }
}

type Armed = io::Result<LinuxWatchdog<Fake>>;

/// Opens and arms it, as `arm` of the module above does.
fn arm(kernel: &Arc<Mutex<Kernel>>, timeout_ms: u64) -> Armed {
    let found = {
        let mut kernel = kernel.lock().unwrap();
        let found = Found { nowayout: Some(kernel.nowayout), active: Some(kernel.running) };
        kernel.running = true;
        found
    };
    LinuxWatchdog::arm(Fake(kernel.clone()), &found, timeout_ms)
}

fn shared(kernel: Kernel) -> Arc<Mutex<Kernel>> {
    Arc::new(Mutex::new(kernel))
}

fn refusal(armed: Armed) -> String {
    match armed {
        Ok(_) => panic!("it was armed"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn the_time_out_is_what_the_device_reads_back_in_whole_seconds() {
    for (asked_ms, most_s, timeout_ms) in
        [(2_000, 100, 2_000), (2_999, 100, 2_000), (90_000, 30, 30_000)]
    {
        let kernel = shared(Kernel { settable: 1..=most_s, ..softdog() });
        let watchdog = arm(&kernel, asked_ms).unwrap();
        assert_eq!(watchdog.timeout_ms(), timeout_ms);
        assert_eq!(watchdog.bites_within_ms(), 2 * timeout_ms);
    }
    assert!(refusal(arm(&shared(softdog()), 999)).contains("whole seconds"));
}

#[test]
fn a_device_that_bites_later_than_asked_is_refused_and_stopped_again() {
    let coarse = Kernel { settable: 10..=100, ..softdog() };
    let fixed = Kernel { fixed: true, ..softdog() };
    let mute = Kernel { fixed: true, timeout_s: 0, ..softdog() };
    for (kernel, reason) in [
        (
            coarse,
            "bites after 60 s and not within the 2 s asked for (Invalid argument (os error 22))",
        ),
        (fixed, "set watchdog.timeout_ms to 60000 or more"),
        (mute, "does not say when it bites"),
    ] {
        let kernel = shared(kernel);
        let text = refusal(arm(&kernel, 2_000));
        assert!(text.contains(reason) && text.contains("Fake Watchdog"), "{text}");
        assert!(!kernel.lock().unwrap().running, "{text}");
    }
}

#[test]
fn a_fixed_time_out_that_is_short_enough_will_do() {
    let kernel = shared(Kernel { fixed: true, timeout_s: 3, ..softdog() });
    assert_eq!(arm(&kernel, 5_000).unwrap().timeout_ms(), 3_000);
}

#[test]
fn a_device_that_the_agents_death_would_stop_is_refused_but_with_nowayout() {
    let kernel = Kernel { options: 0x8080, ..softdog() };
    assert!(
        refusal(arm(&shared(kernel.clone()), 2_000)).contains("is stopped when the agent ends")
    );
    assert!(arm(&shared(Kernel { nowayout: true, ..kernel }), 2_000).is_ok());
}

#[test]
fn a_device_that_cuts_no_power_is_refused() {
    let kernel = Kernel { options: softdog().options | OPTION_ALARM_ONLY, ..softdog() };
    assert!(refusal(arm(&shared(kernel), 2_000)).contains("cuts no power"));
}

#[test]
fn it_runs_on_when_the_agent_ends_and_stops_only_when_it_is_disarmed() {
    let kernel = shared(softdog());
    let mut watchdog = arm(&kernel, 2_000).unwrap();
    watchdog.feed().unwrap();
    drop(watchdog);
    assert!(kernel.lock().unwrap().running);
    let mut watchdog = arm(&kernel, 2_000).unwrap();
    watchdog.disarm().unwrap();
    drop(watchdog);
    assert!(!kernel.lock().unwrap().running);
}

#[test]
fn food_after_disarming_keeps_it_armed() {
    let kernel = shared(softdog());
    let mut watchdog = arm(&kernel, 2_000).unwrap();
    watchdog.disarm().unwrap();
    watchdog.feed().unwrap();
    drop(watchdog);
    assert!(kernel.lock().unwrap().running);
}

#[test]
fn an_agent_that_is_started_again_does_not_feed_by_arming() {
    let kernel = shared(softdog());
    drop(arm(&kernel, 2_000).unwrap());
    let before = kernel.lock().unwrap().feeds;
    let watchdog = arm(&kernel, 2_000).unwrap();
    assert_eq!(kernel.lock().unwrap().feeds, before);
    // The kernel feeds it when it is closed, which is why it bites within twice its time-out.
    drop(watchdog);
    assert_eq!(kernel.lock().unwrap().feeds, before + 1);
}

#[test]
fn a_device_that_runs_already_is_not_given_more_time() {
    let kernel = shared(softdog());
    drop(arm(&kernel, 2_000).unwrap());
    assert_eq!(arm(&kernel, 5_000).unwrap().timeout_ms(), 2_000);
    assert_eq!(arm(&kernel, 1_000).unwrap().timeout_ms(), 1_000);
}

#[test]
fn a_refused_device_that_ran_already_is_left_to_bite() {
    let kernel = shared(Kernel { settable: 10..=100, running: true, ..softdog() });
    let text = refusal(arm(&kernel, 2_000));
    assert!(text.contains("is left so"), "{text}");
    assert!(kernel.lock().unwrap().running);
    // What cannot be told is taken for running.
    let fake = Fake(shared(Kernel { settable: 10..=100, running: true, ..softdog() }));
    let text = refusal(LinuxWatchdog::arm(fake, &Found::default(), 2_000));
    assert!(text.contains("is left so"), "{text}");
}

#[test]
fn with_nowayout_it_says_that_it_cannot_be_disarmed() {
    let kernel = shared(Kernel { nowayout: true, ..softdog() });
    let mut watchdog = arm(&kernel, 2_000).unwrap();
    let text = watchdog.disarm().unwrap_err().to_string();
    assert!(text.contains("nowayout") && text.contains("within 4000 ms"), "{text}");
    drop(watchdog);
    assert!(kernel.lock().unwrap().running);
    let kernel = shared(Kernel { nowayout: true, settable: 10..=100, ..softdog() });
    assert!(refusal(arm(&kernel, 2_000)).contains("it will cut this host's power"));
}

#[test]
fn what_the_kernel_says_before_opening_is_read_from_sysfs() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(Found::read(folder.path()), Found::default());
    std::fs::write(folder.path().join("nowayout"), "1\n").unwrap();
    std::fs::write(folder.path().join("state"), "inactive\n").unwrap();
    let found = Found { nowayout: Some(true), active: Some(false) };
    assert_eq!(Found::read(folder.path()), found);
    std::fs::write(folder.path().join("nowayout"), "0\n").unwrap();
    std::fs::write(folder.path().join("state"), "active\n").unwrap();
    assert_eq!(Found::read(folder.path()), Found { nowayout: Some(false), active: Some(true) });
}
