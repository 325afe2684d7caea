//! From the arguments to a client: which endpoints, which deadline; and what is said if the way to the members was the wrong one.

use std::ops::Deref;

use dynamo_client::{Client, ClientConfig, Mode};

use crate::arguments::Connection;
use crate::local;
use crate::members::Endpoints;
use crate::output::tell;
use crate::stop::Stop;

/// Where a node listens if nobody said otherwise.
const ENDPOINT_DEFAULT: &str = "127.0.0.1:7400";

/// The endpoints that were given, else those of the cluster that `local up` runs, else the default. One that `local up` made and that
/// does not run is an error: whoever listens at the default then is not who was meant.
pub fn endpoints(connection: &Connection) -> Result<Vec<String>, Stop> {
    if !connection.endpoints.is_empty() {
        return Ok(connection.endpoints.clone());
    }
    let running = local::default_endpoints()?;
    Ok(running.unwrap_or_else(|| vec![ENDPOINT_DEFAULT.to_owned()]))
}

/// The same endpoints, to be asked about themselves and the ring.
pub fn asked(connection: &Connection) -> Result<Endpoints, Stop> {
    Ok(Endpoints { addresses: endpoints(connection)?, call_timeout: connection.timeout() })
}

/// Addresses that are named where none was reached.
const NAMED_MAX: usize = 3;

/// A client of one command. At the command's end, whatever came of it, it tells the way out if no member could be reached at its own
/// address: the command took long for that, or failed.
pub struct Connected(Client);

impl Deref for Connected {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.0
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        let out_of_reach = self.addresses_out_of_reach();
        if !out_of_reach.is_empty() {
            let named = out_of_reach[..out_of_reach.len().min(NAMED_MAX)].join(", ");
            let more = if out_of_reach.len() > NAMED_MAX { " and others" } else { "" };
            tell(format_args!(
                "no member could be reached at the address that it gives ({named}{more}); if only the endpoints can be reached from \
                 here, say --through-endpoint"
            ));
        }
    }
}

/// A client that has learned the ring.
pub async fn client(connection: &Connection, mode: Mode) -> Result<Connected, Stop> {
    let config = ClientConfig {
        mode,
        direct: !connection.through_endpoint,
        request_timeout: connection.timeout(),
        ..ClientConfig::new(endpoints(connection)?)
    };
    Ok(Connected(Client::connect(config).await?))
}
