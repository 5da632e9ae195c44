// All ways in which a page can send `text` to `url`, whose server is at `server`; `text` holds one "=".
// Gives back what the page got to read: the status and the beginning of each answer.
async ({ url, text, server, method }) => {
  const read = {};
  const attempt = async (way, send) => {
    try {
      const answer = await send();
      read[way] = [answer.status, (await answer.text()).slice(0, 200)];
    } catch (error) {
      read[way] = [0, String(error)];
    }
  };
  const post = (options) => fetch(url, { method, credentials: "include", body: text, ...options });
  const json = { "Content-Type": "application/json" };
  await attempt("a blob", () => post({ mode: "no-cors", body: new Blob([text]) }));
  await attempt("a blob, to read the answer", () => post({ body: new Blob([text]) }));
  await attempt("text", () => post({ mode: "no-cors", headers: { "Content-Type": "text/plain" } }));
  await attempt("text, to read the answer", () => post({ headers: { "Content-Type": "text/plain" } }));
  await attempt("json", () => post({ headers: json }));
  await attempt("json, without a password", () => post({ headers: json, credentials: "omit" }));
  await attempt("json with a token", async () => {
    const given = await fetch(`${server}/api/csrf-token?client=attack`);
    const headers = { ...json, "Prefect-Csrf-Client": "attack", "Prefect-Csrf-Token": (await given.json()).token };
    return post({ headers, credentials: "omit" });
  });
  navigator.sendBeacon(url, new Blob([text]));
  const [name, value] = text.split("=");
  const submit = async (kind) => {
    const frame = document.body.appendChild(document.createElement("iframe"));
    frame.name = `answer ${kind}`;
    const form = document.body.appendChild(document.createElement("form"));
    Object.assign(form, { action: url, method: "post", enctype: kind, target: frame.name });
    Object.assign(form.appendChild(document.createElement("input")), { name, value });
    const answered = new Promise((done) => (frame.onload = done));
    form.submit();
    await Promise.race([answered, new Promise((done) => setTimeout(done, 2000))]);
  };
  await Promise.all(["text/plain", "application/x-www-form-urlencoded"].map(submit));
  return read;
}
