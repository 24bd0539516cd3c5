// An application as the pages know it: serves them, answers their API from Postgres, and authorises their channels.
// Prints {"port"} when it is ready; ends with its input. The argument: {"app": {host, port, key, secret}, "database",
// "users": {id: name}}; a page's user is the `me` of its address.
import { createHmac } from "node:crypto";
import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";
import pg from "pg";
import { routes } from "./api.mjs";

const { app, database, users } = JSON.parse(process.argv[2]);
const pages = fileURLToPath(new URL("pages/", import.meta.url));
const pool = new pg.Pool({ connectionString: database });

// As Vite does: it takes these from the application's .env.
const env = {
  VITE_REVERB_APP_KEY: app.key,
  VITE_REVERB_HOST: app.host,
  VITE_REVERB_PORT: app.port,
  VITE_REVERB_SCHEME: "http",
};
const { outputFiles } = await build({
  entryPoints: ["blog.js", "pos.js", "provisioning.jsx", "quickstart.js"],
  absWorkingDir: pages,
  outdir: "/",
  bundle: true,
  format: "esm",
  jsx: "automatic",
  define: { "import.meta.env": JSON.stringify(env), "process.env.NODE_ENV": '"production"' },
  write: false,
});
const scripts = new Map(outputFiles.map(({ path, text }) => [path, text]));

const body = async (request) => {
  let text = "";
  for await (const chunk of request) text += chunk;
  return text;
};

// Laravel's /broadcasting/auth, where every user may join everything.
const authorize = async (request) => {
  const asked = new URLSearchParams(await body(request));
  const channel = asked.get("channel_name");
  const id = new URL(request.headers.referer).searchParams.get("me");
  const user = channel.startsWith("presence-") && JSON.stringify({ user_id: id, user_info: { id, name: users[id] } });
  const signed = [asked.get("socket_id"), channel, ...(user ? [user] : [])].join(":");
  const signature = createHmac("sha256", app.secret).update(signed).digest("hex");
  return JSON.stringify({ auth: `${app.key}:${signature}`, ...(user && { channel_data: user }) });
};

const answer = async (request) => {
  const { pathname } = new URL(request.url, "http://localhost");
  if (pathname === "/broadcasting/auth") return ["application/json", await authorize(request)];
  if (scripts.has(pathname)) return ["text/javascript", scripts.get(pathname)];
  if (/^\/\w+\.html$/.test(pathname)) return ["text/html", await readFile(pages + pathname.slice(1))];
  for (const { method, path, sql, one } of routes) {
    const match = request.method === method && path.exec(pathname);
    if (!match) continue;
    const { rows } = await pool.query(sql, match.slice(1));
    // For the tests: when the change is committed.
    const committed_ms = performance.timeOrigin + performance.now();
    return ["application/json", JSON.stringify(method === "POST" ? { committed_ms } : one ? rows[0] : rows)];
  }
};

const server = createServer(async (request, response) => {
  try {
    const [type, content] = (await answer(request)) ?? [];
    if (type) response.setHeader("content-type", type);
    else response.statusCode = 404;
    response.end(content);
  } catch (error) {
    console.error(error);
    response.writeHead(500).end(String(error));
  }
});
server.listen(0, "127.0.0.1", () => console.log(JSON.stringify({ port: server.address().port })));
process.stdin.resume().on("end", () => process.exit(0));
