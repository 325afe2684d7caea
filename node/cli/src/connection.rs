//! From the arguments to a client: which endpoints, which deadline.

use dynamo_client::{Client, ClientConfig, Mode};

use crate::arguments::Connection;
use crate::local;
use crate::members::Endpoints;
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

/// A client that has learned the ring.
pub async fn client(connection: &Connection, mode: Mode) -> Result<Client, Stop> {
    let config = ClientConfig {
        mode,
        direct: !connection.through_endpoint,
        request_timeout: connection.timeout(),
        ..ClientConfig::new(endpoints(connection)?)
    };
    Ok(Client::connect(config).await?)
}
