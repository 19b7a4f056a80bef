//! What `virt` 0.5 does not wrap: lifecycle events, the close callback, aborting a job, silencing the error printer.
//!
//! One of the few modules with unsafe code. Every callback comes on the event loop's thread and only hands its
//! arguments to a closure; closures are freed by libvirt through `free`, once nothing can call them any more.
#![allow(unsafe_code, reason = "calls libvirt's C functions that the virt crate does not wrap")]

use std::ffi::{c_int, c_void};
use std::ptr;

use uuid::Uuid;
use virt::connect::Connect;
use virt::domain::Domain;
use virt::error::Error;
use virt::sys;

/// Told the domain, the lifecycle event and its detail, as libvirt numbers them.
pub(super) type OnLifecycle = Box<dyn Fn(Uuid, i32, i32) + Send + Sync>;
/// Told why the connection was closed.
pub(super) type OnClose = Box<dyn Fn(i32) + Send + Sync>;

/// Keeps the callbacks of one connection registered.
pub(super) struct Watch {
    connection: Connect,
    lifecycle: c_int,
}

/// Registers both callbacks on a connection.
pub(super) fn watch(
    connection: &Connect,
    on_lifecycle: OnLifecycle,
    on_close: OnClose,
) -> Result<Watch, Error> {
    let opaque = Box::into_raw(Box::new(on_lifecycle)).cast::<c_void>();
    // SAFETY: libvirt documents that a lifecycle callback is registered through the generic type and called with the
    // lifecycle signature (`VIR_DOMAIN_EVENT_CALLBACK`); both are plain C function pointers of the same size.
    let callback = unsafe {
        std::mem::transmute::<
            unsafe extern "C" fn(
                sys::virConnectPtr,
                sys::virDomainPtr,
                c_int,
                c_int,
                *mut c_void,
            ) -> c_int,
            unsafe extern "C" fn(sys::virConnectPtr, sys::virDomainPtr, *mut c_void),
        >(lifecycle)
    };
    // SAFETY: the connection is open; `opaque` is a leaked box of the type that `lifecycle` and its `free` expect.
    let id = unsafe {
        sys::virConnectDomainEventRegisterAny(
            connection.as_ptr(),
            ptr::null_mut(),
            sys::VIR_DOMAIN_EVENT_ID_LIFECYCLE as c_int,
            Some(callback),
            opaque,
            Some(free::<OnLifecycle>),
        )
    };
    if id < 0 {
        // SAFETY: libvirt did not take the box, so that it is still ours to free.
        drop(unsafe { Box::from_raw(opaque.cast::<OnLifecycle>()) });
        return Err(Error::last_error());
    }
    let opaque = Box::into_raw(Box::new(on_close)).cast::<c_void>();
    // SAFETY: as above, with the types of `closed`.
    let registered = unsafe {
        sys::virConnectRegisterCloseCallback(
            connection.as_ptr(),
            Some(closed),
            opaque,
            Some(free::<OnClose>),
        )
    };
    if registered < 0 {
        // SAFETY: as above.
        drop(unsafe { Box::from_raw(opaque.cast::<OnClose>()) });
        return Err(Error::last_error());
    }
    Ok(Watch { connection: connection.clone(), lifecycle: id })
}

impl Drop for Watch {
    fn drop(&mut self) {
        // SAFETY: the connection is held by this value; unregistering twice or on a dead connection is an error code.
        unsafe {
            sys::virConnectDomainEventDeregisterAny(self.connection.as_ptr(), self.lifecycle);
            sys::virConnectUnregisterCloseCallback(self.connection.as_ptr(), Some(closed));
        }
    }
}

unsafe extern "C" fn lifecycle(
    _connection: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    event: c_int,
    detail: c_int,
    opaque: *mut c_void,
) -> c_int {
    let mut uuid = [0u8; sys::VIR_UUID_BUFLEN as usize];
    // SAFETY: libvirt lends a valid domain for the time of the call, and the buffer has the length it asks for.
    let got = unsafe { sys::virDomainGetUUID(domain, uuid.as_mut_ptr()) };
    if got == 0 {
        // SAFETY: `opaque` is the box that was registered with this callback, and lives until `free`.
        let callback = unsafe { &*opaque.cast::<OnLifecycle>() };
        callback(Uuid::from_bytes(uuid), event, detail);
    }
    0
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
