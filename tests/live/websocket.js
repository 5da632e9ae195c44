// Sends texts through a WebSocket, one after the other, and gives back what was received within a second.
async ({ url, texts, protocols }) => {
  const received = [];
  const socket = new WebSocket(url, protocols);
  await new Promise((done) => {
    socket.onmessage = (message) => received.push(message.data);
    socket.onopen = () => texts.forEach((text) => socket.send(text));
    socket.onclose = socket.onerror = done;
    setTimeout(done, 1000);
  });
  socket.close();
  return received;
}
