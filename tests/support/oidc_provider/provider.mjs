// The certified oidc-provider, set up as a gate's identity provider: JWT access tokens by client credentials and resource indicators.
//
// It listens on a free port of loopback and prints one JSON line, {"issuer": ...}, once it does. A line `rotate` on stdin replaces its keys and
// is answered by the same line again. It ends when stdin does, so it can't outlive the test that started it.

import { generateKeyPairSync, randomUUID } from 'node:crypto';
import { createServer } from 'node:http';
import { createInterface } from 'node:readline';

import Provider from 'oidc-provider';

const AUDIENCES = { 'urn:sidegate:rs256': 'RS256', 'urn:sidegate:es256': 'ES256', 'urn:sidegate:ps256': 'PS256' };

function newKeys() {
  const pairs = {
    RS256: generateKeyPairSync('rsa', { modulusLength: 2048 }),
    PS256: generateKeyPairSync('rsa', { modulusLength: 2048 }),
    ES256: generateKeyPairSync('ec', { namedCurve: 'P-256' }),
  };
  const keys = Object.entries(pairs).map(([alg, pair]) => ({
    ...pair.privateKey.export({ format: 'jwk' }), kid: `${alg}-${randomUUID()}`, use: 'sig', alg,
  }));
  return { keys };
}

function newProvider(issuer) {
  return new Provider(issuer, {
    clients: [{
      client_id: 'reports',
      client_secret: 'a secret / with:signs',
      grant_types: ['client_credentials'],
      redirect_uris: [],
      response_types: [],
    }],
    jwks: newKeys(),
    features: {
      devInteractions: { enabled: false },
      clientCredentials: { enabled: true },
      resourceIndicators: {
        enabled: true,
        getResourceServerInfo: (_, resource) => ({
          scope: 'read', audience: resource, accessTokenTTL: 600, accessTokenFormat: 'jwt',
          jwt: { sign: { alg: AUDIENCES[resource] ?? 'RS256' } },
        }),
      },
    },
    extraTokenClaims: () => ({ email: 'reports@example.com', groups: ['reporting', 'ai-assistants'] }),
    ttl: { ClientCredentials: 600 },
  });
}

let handle;
const server = createServer((request, response) => handle(request, response));
server.listen(0, '127.0.0.1', () => {
  const issuer = `http://127.0.0.1:${server.address().port}`;
  const start = () => {
    handle = newProvider(issuer).callback();
    console.log(JSON.stringify({ issuer }));
  };
  start();
  const lines = createInterface({ input: process.stdin });
  lines.on('line', (line) => line === 'rotate' && start());
  lines.on('close', () => process.exit(0));
});
