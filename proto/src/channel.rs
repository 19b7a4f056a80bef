//! How every Berth process connects to another: one place for time-outs, keep-alives and TLS.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity, ServerTlsConfig};

/// The metadata in which an agent names the cluster that its ledger is of.
pub const CLUSTER: &str = "berth-cluster";

/// A host that lost its power sends no farewell: without keep-alives a stream to it hangs for minutes.
const KEEP_ALIVE: Duration = Duration::from_secs(2);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// One identity and whom it trusts, as PEM files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The authority whose certificates are accepted.
    pub ca: PathBuf,
    /// The own certificate.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// Why no connection can be made.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// Not an address.
    #[error("{address:?} is not an address; write HOST:PORT")]
    Address {
        /// As given.
        address: String,
        /// What is wrong with it.
        #[source]
        source: tonic::transport::Error,
    },
    /// A PEM file could not be read.
    #[error("the TLS file {} could not be read", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The TLS files do not fit together.
    #[error("the TLS files are of no use")]
    Tls(#[source] tonic::transport::Error),
}

/// An endpoint for `HOST:PORT`, with mutual TLS where files are given.
pub fn endpoint(address: &str, tls: Option<&TlsFiles>) -> Result<Endpoint, ChannelError> {
    let scheme = if tls.is_some() { "https" } else { "http" };
    let endpoint = Endpoint::from_shared(format!("{scheme}://{address}"))
        .map_err(|source| ChannelError::Address { address: address.to_owned(), source })?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .keep_alive_while_idle(true);
    let Some(files) = tls else { return Ok(endpoint) };
    let config = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(read(&files.ca)?))
        .identity(Identity::from_pem(read(&files.certificate)?, read(&files.key)?));
    endpoint.tls_config(config).map_err(ChannelError::Tls)
}

/// The server's side: its own identity, and clients only with a certificate of the same authority.
pub fn server_tls(files: &TlsFiles) -> Result<ServerTlsConfig, ChannelError> {
    Ok(ServerTlsConfig::new()
        .identity(Identity::from_pem(read(&files.certificate)?, read(&files.key)?))
        .client_ca_root(Certificate::from_pem(read(&files.ca)?)))
}

fn read(path: &Path) -> Result<Vec<u8>, ChannelError> {
    std::fs::read(path).map_err(|source| ChannelError::File { path: path.to_owned(), source })
}
