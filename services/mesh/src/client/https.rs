//! HTTPS client that trusts the mesh's roots, for processes without a certificate of the mesh; used to reach Registry.

use std::net::SocketAddr;

use anyhow::Context as _;
use reqwest::{
    Client, Method, RequestBuilder,
    dns::{Addrs, Name, Resolve, Resolving},
};

use super::{
    ClientConfig,
    connect::{causes, handshake_in_words},
};
use crate::identity::anonymous_client;

/// A client of one role at one address. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Https {
    client: Client,
    base: String,
}

/// A client of `role` at `address` (`host:port`, resolved at each connection). The server's certificate must name
/// `role`; only `roots_pem` is trusted.
///
/// # Errors
/// Where the address or the roots are invalid.
pub fn https(role: &'static str, address: &str, roots_pem: &str, settings: &ClientConfig) -> anyhow::Result<Https> {
    let port = address.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
    let port = port.with_context(|| format!("{address:?} is no address: host:port"))?;
    let mut tls = anonymous_client(roots_pem)?;
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let client = Client::builder()
        // Never the system's roots.
        .tls_backend_preconfigured(tls)
        .https_only(true)
        .no_proxy()
        .dns_resolver(std::sync::Arc::new(Always(address.to_owned())))
        .connect_timeout(settings.connect_timeout)
        .timeout(settings.call_timeout)
        .tcp_nodelay(true)
        .build()
        .context("cannot make an HTTPS client")?;
    Ok(Https { client, base: format!("https://{role}:{port}") })
}

impl Https {
    /// `path` begins with `/`.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.base))
    }

    pub fn get(&self, path: &str) -> RequestBuilder {
        self.request(Method::GET, path)
    }

    pub fn post(&self, path: &str) -> RequestBuilder {
        self.request(Method::POST, path)
    }

    pub fn delete(&self, path: &str) -> RequestBuilder {
        self.request(Method::DELETE, path)
    }
}

/// The innermost cause, which says more than "error sending request".
pub fn explain(error: &reqwest::Error) -> String {
    let causes = causes(error);
    for cause in causes.clone() {
        if let Some(io) = cause.downcast_ref::<std::io::Error>() {
            return handshake_in_words(io, "this role");
        }
    }
    causes.last().map(ToString::to_string).unwrap_or_default()
}

/// Resolves every name to the configured address: the name in the URL is only for verifying the certificate.
struct Always(String);

impl Resolve for Always {
    fn resolve(&self, _: Name) -> Resolving {
        let address = self.0.clone();
        Box::pin(async move {
            let found: Vec<SocketAddr> = tokio::net::lookup_host(address).await?.collect();
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}
