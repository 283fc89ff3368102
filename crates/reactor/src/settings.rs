//! What the reactor must know of the worker's settings, parsed once.

use crate::body::Spool;
use rgunicorn_http::{HeaderMap, IpSet, Policy, ProxyProtocol, Trust};
use rgunicorn_protocol::{Sheet, WorkerSettings};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// Settings in the reactor's own terms. One for the life of a worker.
#[derive(Debug)]
pub struct ReactorSettings {
    /// What the engine obeys.
    pub policy: Policy,
    /// Peers whose forwarding fields are believed.
    pub forwarded_allow_ips: IpSet,
    /// Peers that may send a PROXY header.
    pub proxy_allow_ips: IpSet,
    /// Time that a request may be in the application without progress; zero: no limit.
    pub timeout: Duration,
    /// Time without progress while a response is sent; zero: no limit.
    pub send_timeout: Duration,
    /// Time that a complete request may wait for a lane; zero: no limit.
    pub queue_timeout: Duration,
    /// Whether bodies are complete before the application is called.
    pub request_buffering: bool,
    /// The account of spooled bodies.
    pub spool: Arc<Spool>,
    /// Bytes of a response that are kept for a slow reader before the lane waits.
    pub response_buffer: usize,
    /// Path that the reactor answers itself; empty: none.
    pub health_path: Vec<u8>,
    /// Workers of the instance; with more than one, requests can be given to others.
    pub workers: usize,
    /// Idle connections of a worker that leaves without successors wait in the handoff for the next arbiter's workers.
    pub parks: bool,
    /// Resident bytes at which the worker asks for its replacement; 0: never.
    pub max_memory: u64,
    /// Resident bytes at which the worker asks to be killed; 0: never.
    pub max_memory_hard: u64,
    /// Whether files are sent by sendfile(2).
    pub sendfile: bool,
    /// Whether requests have ids.
    pub request_id: bool,
    /// Whether lanes are coroutines of one thread.
    pub coroutines: bool,
}

/// `seconds` as a duration; what is negative or no number is zero, "no limit".
pub fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or(Duration::ZERO)
}

impl ReactorSettings {
    /// Parses what the arbiter sent. Spooled bodies are accounted for on `sheet`.
    ///
    /// # Errors
    /// A sentence that names the setting. The arbiter has checked the same values, so this is a version skew.
    pub fn new(settings: &WorkerSettings, sheet: &Arc<Sheet>) -> Result<ReactorSettings, String> {
        let policy = Policy {
            limit_request_line: settings.limit_request_line as usize,
            limit_request_fields: settings.limit_request_fields as usize,
            limit_request_field_size: settings.limit_request_field_size as usize,
            limit_request_body: settings.limit_request_body,
            header_map: match settings.header_map.as_str() {
                "drop" | "" => HeaderMap::Drop,
                "refuse" => HeaderMap::Refuse,
                "dangerous" => HeaderMap::Dangerous,
                other => return Err(format!("header_map: {other:?} is none of drop, refuse, dangerous")),
            },
            forwarder_headers: settings.forwarder_headers.iter().map(|name| name.clone().into_bytes()).collect(),
            secure_scheme_headers: settings
                .secure_scheme_headers
                .iter()
                .map(|(name, value)| (name.clone().into_bytes(), value.clone().into_bytes()))
                .collect(),
            permit_unconventional_http_method: settings.permit_unconventional_http_method,
            permit_unconventional_http_version: settings.permit_unconventional_http_version,
            casefold_http_method: settings.casefold_http_method,
            strip_header_spaces: settings.strip_header_spaces,
            header_timeout: seconds(settings.header_timeout),
            body_timeout: seconds(settings.body_timeout),
            keepalive: seconds(settings.keepalive),
            proxy_protocol: match settings.proxy_protocol.as_str() {
                "off" | "" => ProxyProtocol::Off,
                "v1" => ProxyProtocol::V1,
                "v2" => ProxyProtocol::V2,
                "auto" => ProxyProtocol::Auto,
                other => return Err(format!("proxy_protocol: {other:?} is none of off, v1, v2, auto")),
            },
            ..Policy::default()
        };
        let ips = |name: &str, list: &[String]| IpSet::parse(list).map_err(|error| format!("{name}: {error}"));
        Ok(ReactorSettings {
            policy,
            forwarded_allow_ips: ips("forwarded_allow_ips", &settings.forwarded_allow_ips)?,
            proxy_allow_ips: ips("proxy_allow_ips", &settings.proxy_allow_ips)?,
            timeout: seconds(settings.timeout),
            send_timeout: seconds(settings.send_timeout),
            queue_timeout: seconds(settings.queue_timeout),
            // An ASGI application reads the body as it comes.
            request_buffering: settings.request_buffering && settings.worker_class != "asgi",
            spool: Spool::new(Arc::clone(sheet), settings.spool_limit, settings.request_buffer),
            response_buffer: usize::try_from(settings.response_buffer).unwrap_or(usize::MAX),
            health_path: settings.health_path.clone().into_bytes(),
            workers: (settings.workers as usize).max(1),
            parks: settings.parks && settings.handoff,
            max_memory: settings.max_worker_memory,
            max_memory_hard: settings.max_worker_memory_hard,
            sendfile: settings.sendfile,
            request_id: settings.request_id,
            coroutines: matches!(settings.worker_class.as_str(), "gevent" | "asgi"),
        })
    }

    /// Whom a peer may speak for. A unix peer passed the socket's file mode and is trusted.
    pub(crate) fn trust(&self, peer: Option<IpAddr>) -> Trust {
        Trust { forwarded: self.forwarded_allow_ips.trusts(peer), proxy: self.proxy_allow_ips.trusts(peer) }
    }
}
