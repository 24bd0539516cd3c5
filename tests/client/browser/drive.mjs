// Drives a real Chromium. Reads commands, one JSON object a line, each with a `call` number, and prints an answer for
// each when it is done, in any order: {"call", "value"} or {"call", "failed"}. Ends with its input.
//   {"open": window, "url"}                 a window in a context of its own; answers when it has loaded
//   {"window", "run": javascript}           the value of an expression in the page, awaited
//   {"window", "until": javascript}         when, in ms since 1970, an expression about the page's DOM came true
//   {"window", "type": text, "into": css}   by keyboard
//   {"window", "requests": path}            how many requests for that path the window has made
//   {"close": window}
import { createInterface } from "node:readline";
import { chromium } from "playwright-core";

const DEADLINE_MS = 20000;

const browser = await chromium.launch({
  executablePath: process.argv[2],
  args: [
    "--disable-gpu",
    "--disable-background-networking",
    "--no-proxy-server",
    // Nothing but the loopback.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
  ],
});
const windows = new Map();

const open = async (name, url) => {
  const context = await browser.newContext();
  const page = await context.newPage();
  const requests = new Map();
  page.on("request", (request) => {
    const { pathname } = new URL(request.url());
    requests.set(pathname, 1 + (requests.get(pathname) ?? 0));
  });
  page.on("pageerror", (error) => console.error(`${name}: ${error.stack}`));
  page.on("console", (message) => console.error(`${name}: ${message.text()}`));
  windows.set(name, { page, requests });
  await page.goto(url);
};

// Looks at once and then at each change of the DOM, in the page itself: a look from here would come later.
const until = (page, javascript) =>
  page.evaluate(
    ([javascript, deadline_ms]) =>
      new Promise((resolve, reject) => {
        const holds = new Function(`return ${javascript}`);
        const look = () => {
          if (!holds()) return;
          observer.disconnect();
          resolve(performance.timeOrigin + performance.now());
        };
        const observer = new MutationObserver(look);
        observer.observe(document, { subtree: true, childList: true, characterData: true, attributes: true });
        look();
        setTimeout(() => reject(new Error(`not within ${deadline_ms} ms; the page shows: ${document.body.innerText}`)), deadline_ms);
      }),
    [javascript, DEADLINE_MS],
  );

const perform = async (command) => {
  if (command.open) return open(command.open, command.url);
  if (command.close) return windows.get(command.close).page.context().close();
  const { page, requests } = windows.get(command.window);
  if (command.run) return page.evaluate(command.run);
  if (command.until) return until(page, command.until);
  if (command.into) return page.locator(command.into).pressSequentially(command.type);
  if (command.requests) return requests.get(command.requests) ?? 0;
  throw new Error("an unknown command");
};

const print = (line) => process.stdout.write(JSON.stringify(line) + "\n");
createInterface({ input: process.stdin })
  .on("line", (line) => {
    const { call, ...command } = JSON.parse(line);
    perform(command).then(
      (value) => print({ call, value: value ?? null }),
      (error) => print({ call, failed: String(error) }),
    );
  })
  .on("close", () => browser.close().then(() => process.exit(0)));
