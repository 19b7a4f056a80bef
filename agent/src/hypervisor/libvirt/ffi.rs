//! What `virt` 0.5 does not wrap: events, the close callback, saving, post-copy, the guest agent's time-out, aborting a
//! job, silencing the error printer.
//!
//! One of the few modules with unsafe code. Every callback comes on the event loop's thread and only hands its
//! arguments to a closure; closures are freed by libvirt through `free`, once nothing can call them any more.
#![allow(unsafe_code, reason = "calls libvirt's C functions that the virt crate does not wrap")]

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr;
use std::sync::Arc;

use uuid::Uuid;
use virt::connect::Connect;
use virt::domain::Domain;
use virt::error::Error;
use virt::sys;

/// An event of a domain, as libvirt numbers it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum RawEvent {
    /// A lifecycle event and its detail.
    Lifecycle(i32, i32),
    /// The guest rebooted.
    Reboot,
    /// Its watchdog device bit, and this is what follows.
    Watchdog(i32),
    /// Its migration begins this pass over its memory.
    Pass(i32),
    /// A disk failed: its path or alias, and why.
    IoError {
        /// Which.
        disk: String,
        /// Why, where the hypervisor says.
        reason: String,
    },
}

/// Told the domain and what happened.
pub(super) type OnEvent = Arc<dyn Fn(Uuid, RawEvent) + Send + Sync>;
/// Told why the connection was closed.
pub(super) type OnClose = Box<dyn Fn(i32) + Send + Sync>;

/// Keeps the callbacks of one connection registered.
pub(super) struct Watch {
    connection: Connect,
    events: Vec<c_int>,
}

type Generic = unsafe extern "C" fn(sys::virConnectPtr, sys::virDomainPtr, *mut c_void);

/// Registers all callbacks on a connection. A hypervisor need not have the events beyond the lifecycle's.
pub(super) fn watch(
    connection: &Connect,
    on_event: &OnEvent,
    on_close: OnClose,
) -> Result<Watch, Error> {
    // SAFETY: libvirt documents that each callback is registered through the generic type and called with the signature of
    // its event (`VIR_DOMAIN_EVENT_CALLBACK`); all are plain C function pointers of the same size, and each signature here
    // is that of its event's callback type in libvirt-domain.h.
    let (lifecycle, watchdog, pass, io_error) = unsafe {
        (
            std::mem::transmute::<Lifecycle, Generic>(lifecycle),
            std::mem::transmute::<Numbered, Generic>(watchdog),
            std::mem::transmute::<Numbered, Generic>(pass),
            std::mem::transmute::<IoError, Generic>(io_error),
        )
    };
    let mut watch = Watch { connection: connection.clone(), events: Vec::new() };
    watch.events.push(register(
        connection,
        sys::VIR_DOMAIN_EVENT_ID_LIFECYCLE,
        lifecycle,
        on_event,
    )?);
    for (event, callback) in [
        (sys::VIR_DOMAIN_EVENT_ID_REBOOT, reboot as Generic),
        (sys::VIR_DOMAIN_EVENT_ID_WATCHDOG, watchdog),
        (sys::VIR_DOMAIN_EVENT_ID_MIGRATION_ITERATION, pass),
        (sys::VIR_DOMAIN_EVENT_ID_IO_ERROR_REASON, io_error),
    ] {
        watch.events.extend(register(connection, event, callback, on_event).ok());
    }
    let opaque = Box::into_raw(Box::new(on_close)).cast::<c_void>();
    // SAFETY: the connection is open; `opaque` is a leaked box of the type that `closed` and its `free` expect.
    let registered = unsafe {
        sys::virConnectRegisterCloseCallback(
            connection.as_ptr(),
            Some(closed),
            opaque,
            Some(free::<OnClose>),
        )
    };
    if registered < 0 {
        // SAFETY: libvirt did not take the box, so that it is still ours to free.
        drop(unsafe { Box::from_raw(opaque.cast::<OnClose>()) });
        return Err(Error::last_error());
    }
    Ok(watch)
}

fn register(
    connection: &Connect,
    event: sys::virDomainEventID,
    callback: Generic,
    on_event: &OnEvent,
) -> Result<c_int, Error> {
    let opaque = Box::into_raw(Box::new(on_event.clone())).cast::<c_void>();
    // SAFETY: the connection is open; `opaque` is a leaked box of the type that the callbacks and their `free` expect.
    let id = unsafe {
        sys::virConnectDomainEventRegisterAny(
            connection.as_ptr(),
            ptr::null_mut(),
            event as c_int,
            Some(callback),
            opaque,
            Some(free::<OnEvent>),
        )
    };
    if id < 0 {
        // SAFETY: libvirt did not take the box, so that it is still ours to free.
        drop(unsafe { Box::from_raw(opaque.cast::<OnEvent>()) });
        return Err(Error::last_error());
    }
    Ok(id)
}

impl Drop for Watch {
    fn drop(&mut self) {
        // SAFETY: the connection is held by this value; unregistering twice or on a dead connection is an error code.
        unsafe {
            for id in &self.events {
                sys::virConnectDomainEventDeregisterAny(self.connection.as_ptr(), *id);
            }
            sys::virConnectUnregisterCloseCallback(self.connection.as_ptr(), Some(closed));
        }
    }
}

/// Hands an event to the closure in `opaque`.
///
/// # Safety
///
/// `domain` is valid, and `opaque` is the box that was registered with the callback.
unsafe fn tell(domain: sys::virDomainPtr, event: RawEvent, opaque: *mut c_void) {
    let mut uuid = [0u8; sys::VIR_UUID_BUFLEN as usize];
    // SAFETY: libvirt lends a valid domain for the time of the call, and the buffer has the length it asks for.
    let got = unsafe { sys::virDomainGetUUID(domain, uuid.as_mut_ptr()) };
    if got == 0 {
        // SAFETY: `opaque` is the box that was registered with this callback, and lives until `free`.
        let callback = unsafe { &*opaque.cast::<OnEvent>() };
        callback(Uuid::from_bytes(uuid), event);
    }
}

type Lifecycle =
    unsafe extern "C" fn(sys::virConnectPtr, sys::virDomainPtr, c_int, c_int, *mut c_void) -> c_int;

unsafe extern "C" fn lifecycle(
    _connection: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    event: c_int,
    detail: c_int,
    opaque: *mut c_void,
) -> c_int {
    // SAFETY: libvirt's own arguments, as it documents them.
    unsafe { tell(domain, RawEvent::Lifecycle(event, detail), opaque) };
    0
}

unsafe extern "C" fn reboot(
    _connection: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    opaque: *mut c_void,
) {
    // SAFETY: as above.
    unsafe { tell(domain, RawEvent::Reboot, opaque) };
}

type Numbered = unsafe extern "C" fn(sys::virConnectPtr, sys::virDomainPtr, c_int, *mut c_void);

unsafe extern "C" fn watchdog(
    _connection: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    action: c_int,
    opaque: *mut c_void,
) {
    // SAFETY: as above.
    unsafe { tell(domain, RawEvent::Watchdog(action), opaque) };
}

unsafe extern "C" fn pass(
    _connection: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    number: c_int,
    opaque: *mut c_void,
) {
    // SAFETY: as above.
    unsafe { tell(domain, RawEvent::Pass(number), opaque) };
}

type IoError = unsafe extern "C" fn(
    sys::virConnectPtr,
    sys::virDomainPtr,
    *const c_char,
    *const c_char,
    c_int,
    *const c_char,
    *mut c_void,
);

unsafe extern "C" fn io_error(
    _connection: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    path: *const c_char,
    alias: *const c_char,
    _action: c_int,
    reason: *const c_char,
    opaque: *mut c_void,
) {
    // SAFETY: libvirt lends strings that end with a zero byte, or null pointers, for the time of the call.
    let (path, alias, reason) = unsafe { (text(path), text(alias), text(reason)) };
    let disk = if path.is_empty() { alias } else { path };
    // SAFETY: as above.
    unsafe { tell(domain, RawEvent::IoError { disk, reason }, opaque) };
}

/// # Safety
///
/// Null, or a string that ends with a zero byte.
unsafe fn text(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: the caller's promise.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

unsafe extern "C" fn closed(_connection: sys::virConnectPtr, reason: c_int, opaque: *mut c_void) {
    // SAFETY: `opaque` is the box that was registered with this callback, and lives until `free`.
    let callback = unsafe { &*opaque.cast::<OnClose>() };
    callback(reason);
}

unsafe extern "C" fn free<T>(opaque: *mut c_void) {
    // SAFETY: libvirt calls this once, when it will not call the callback again; the box is of type `T`.
    drop(unsafe { Box::from_raw(opaque.cast::<T>()) });
}

fn done(code: c_int) -> Result<(), Error> {
    match code {
        0 => Ok(()),
        _ => Err(Error::last_error()),
    }
}

/// `virDomainMigrateStartPostCopy`.
pub(super) fn start_post_copy(domain: &Domain) -> Result<(), Error> {
    // SAFETY: the domain is valid as long as it is borrowed.
    done(unsafe { sys::virDomainMigrateStartPostCopy(domain.as_ptr(), 0) })
}

/// `virDomainSaveFlags`. What is restored from it runs, whatever paused it meanwhile.
pub(super) fn save(domain: &Domain, file: &str) -> Result<(), Error> {
    let file = CString::new(file)?;
    let flags = sys::VIR_DOMAIN_SAVE_RUNNING;
    // SAFETY: as above, and the string ends with a zero byte and lives until the call returns.
    done(unsafe { sys::virDomainSaveFlags(domain.as_ptr(), file.as_ptr(), ptr::null(), flags) })
}

/// `virDomainAgentSetResponseTimeout`: without it a guest agent that hangs hangs its caller.
pub(super) fn set_agent_timeout(domain: &Domain, seconds: i32) -> Result<(), Error> {
    // SAFETY: the domain is valid as long as it is borrowed.
    done(unsafe { sys::virDomainAgentSetResponseTimeout(domain.as_ptr(), seconds, 0) })
}

/// `virDomainAbortJob`.
pub(super) fn abort_job(domain: &Domain) -> Result<(), Error> {
    // SAFETY: the domain is valid as long as it is borrowed.
    match unsafe { sys::virDomainAbortJob(domain.as_ptr()) } {
        0 => Ok(()),
        _ => Err(Error::last_error()),
    }
}

/// libvirt prints every error to standard error by default; ours are logged once, where they are consumed.
pub(super) fn silence() {
    unsafe extern "C" fn ignore(_data: *mut c_void, _error: sys::virErrorPtr) {}
    // SAFETY: the function ignores its arguments and is valid for ever.
    unsafe { sys::virSetErrorFunc(ptr::null_mut(), Some(ignore)) };
}
